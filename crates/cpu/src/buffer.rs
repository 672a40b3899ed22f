//! Page-aligned memory for weights and workspaces, and its division into typed slices.

use memmap2::MmapMut;
use zerocopy::FromBytes;

use crate::micro::Lane;

/// Every slice of an [`Arena`] starts on a cache line.
const ALIGNMENT: usize = 64;

/// Zeroed memory that the system provides page by page as it is touched.
pub(crate) struct Buffer {
    map: Option<MmapMut>,
}

impl Buffer {
    /// `len` zero bytes, or `None` when the system has not that much.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self { map: None });
        }
        let map = MmapMut::map_anon(len).ok()?;
        #[cfg(all(target_os = "linux", not(miri)))]
        // Advice only: where huge pages are off, small ones serve.
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Self { map: Some(map) })
    }

    /// The same, every page already there, so that nobody waits for one later. Where the system
    /// cannot do that, pages come as they are touched.
    pub(crate) fn resident(len: usize) -> Option<Self> {
        let buffer = Self::zeroed(len)?;
        #[cfg(all(target_os = "linux", not(miri)))]
        if let Some(map) = &buffer.map {
            let _ = map.advise(memmap2::Advice::PopulateWrite);
        }
        Some(buffer)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

/// Cuts typed slices off a buffer.
pub(crate) struct Arena<'a> {
    rest: &'a mut [u8],
}

impl<'a> Arena<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` elements, whatever they hold now.
    ///
    /// # Panics
    /// When the buffer is too small: [`arena_bytes`] of all slices says how large it must be.
    pub(crate) fn take<T: Lane>(&mut self, len: usize) -> &'a mut [T] {
        let bytes = self.take_bytes(len * size_of::<T>());
        <[T]>::mut_from_bytes(bytes).expect("a cache line is aligned")
    }

    /// The next `len` bytes.
    ///
    /// # Panics
    /// As [`take`](Self::take).
    pub(crate) fn take_bytes(&mut self, len: usize) -> &'a mut [u8] {
        let taken = arena_bytes::<u8>(len);
        let (bytes, rest) = std::mem::take(&mut self.rest).split_at_mut(taken);
        self.rest = rest;
        &mut bytes[..len]
    }
}

/// Bytes of an [`Arena`] that a slice of `len` elements takes.
pub(crate) fn arena_bytes<T>(len: usize) -> usize {
    (len * size_of::<T>()).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_aligned_and_apart() {
        let len = arena_bytes::<i16>(3) + arena_bytes::<f32>(5) + arena_bytes::<f32>(0);
        let mut buffer = Buffer::zeroed(len).unwrap();
        let mut arena = Arena::new(buffer.bytes_mut());
        let (a, b): (&mut [i16], &mut [f32]) = (arena.take(3), arena.take(5));
        a.fill(7);
        assert_eq!(b, [0.0; 5]);
        assert_eq!(b.as_ptr().addr() % ALIGNMENT, 0);
        assert_eq!(arena.take::<f32>(0).len(), 0);
        assert_eq!(len, 128);
    }

    #[test]
    #[cfg_attr(miri, ignore = "the interpreter itself ends when it cannot allocate")]
    fn an_impossible_size_is_none() {
        assert!(Buffer::zeroed(1 << 60).is_none());
        assert_eq!(Buffer::zeroed(0).unwrap().len(), 0);
    }
}
