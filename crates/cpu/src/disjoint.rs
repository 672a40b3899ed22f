//! A slice that several threads write at once, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A borrowed slice whose parts may be written from several threads.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` hands out exclusive parts only; with `T: Send` a part may go to another thread.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No two parts that are alive at once overlap.
    ///
    /// # Panics
    /// When the range is not within the slice.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part within the slice");
        // SAFETY: within the slice: asserted above.
        let start = unsafe { self.start.add(range.start) };
        #[expect(clippy::disallowed_methods, reason = "the one place that splits a slice by hand")]
        // SAFETY: `start` and the length stay within the borrowed slice, and the caller promises
        // that nobody else holds these elements.
        unsafe {
            std::slice::from_raw_parts_mut(start, range.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_slice() {
        let mut values = [0; 6];
        let shared = Disjoint::new(&mut values);
        std::thread::scope(|scope| {
            for part in 0..3 {
                let shared = &shared;
                scope.spawn(move || {
                    // SAFETY: every thread has its own part.
                    let part_mut = unsafe { shared.part(2 * part..2 * part + 2) };
                    part_mut.fill(part + 1);
                });
            }
        });
        assert_eq!(values, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    #[should_panic(expected = "part within the slice")]
    fn a_part_outside_is_refused() {
        let mut values = [0; 6];
        let shared = Disjoint::new(&mut values);
        // SAFETY: the only part.
        let _ = unsafe { shared.part(5..7) };
    }
}
