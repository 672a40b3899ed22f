//! The ceiling: how fast this machine reads memory.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;

use memmap2::MmapMut;
use zerocopy::FromBytes;

/// A buffer that is read from end to end to learn the memory bandwidth. Made larger than the
/// last-level cache, reading it also pushes everything else out of the caches.
///
/// It lies on huge pages where the system grants them on advice, as prepared weights do.
pub struct BandwidthProbe {
    /// `None`: no word at all.
    words: Option<MmapMut>,
    threads: usize,
}

impl BandwidthProbe {
    /// A probe of `bytes`, rounded down to whole words, read by `threads` threads at once.
    /// Allocates and writes the buffer. Where the system has not that much, the probe is empty.
    pub fn new(bytes: usize, threads: NonZeroUsize) -> Self {
        let len = bytes / size_of::<u64>() * size_of::<u64>();
        let mut words = (len > 0).then(|| MmapMut::map_anon(len).ok()).flatten();
        if let Some(map) = &mut words {
            #[cfg(target_os = "linux")]
            // Advice only: where huge pages are off, small ones serve.
            let _ = map.advise(memmap2::Advice::HugePage);
            // Ones, not zeros: untouched zero pages would all be the same page.
            map.fill(1);
        }
        Self { words, threads: threads.get() }
    }

    /// Bytes of the buffer.
    pub fn bytes(&self) -> usize {
        self.words.as_deref().map_or(0, <[u8]>::len)
    }

    /// Reads the buffer once and returns the bandwidth in GiB/s; 0 for an empty buffer. Blocks for
    /// as long as that takes, and starts its threads anew, so small buffers read slow.
    pub fn measure_gib_per_s(&self) -> f64 {
        let Some(bytes) = self.words.as_deref() else { return 0.0 };
        let words = <[u64]>::ref_from_bytes(bytes).expect("whole words on a page's start");
        let start = Instant::now();
        thread::scope(|scope| {
            for part in words.chunks(words.len().div_ceil(self.threads)) {
                scope.spawn(|| black_box(sum(part)));
            }
        });
        let seconds = start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        self.bytes() as f64 / seconds / f64::from(1 << 30)
    }
}

/// Eight sums at once, so that the loads and not the additions are waited for.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 8];
    for eight in words.chunks(8) {
        for (sum, word) in sums.iter_mut().zip(eight) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_and_the_figure_is_finite() {
        assert_eq!(sum(&[1; 1003]), 1003);
        for (bytes, threads) in [(1 << 20, 2), (8, 3), (100, 1)] {
            let probe = BandwidthProbe::new(bytes, NonZeroUsize::new(threads).unwrap());
            assert_eq!(probe.bytes(), bytes / 8 * 8);
            let figure = probe.measure_gib_per_s();
            assert!(figure.is_finite() && figure > 0.0);
        }
        let empty = BandwidthProbe::new(7, NonZeroUsize::MIN);
        assert_eq!(empty.measure_gib_per_s(), 0.0);
    }
}
