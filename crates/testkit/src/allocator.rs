use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

static OF_PROCESS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OF_THREAD: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting what is asked of it. A test installs it for its whole binary:
///
/// ```
/// use trellect_testkit::CountingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: CountingAllocator = CountingAllocator;
///
/// let before = CountingAllocator::of_process();
/// drop(vec![1]);
/// assert!(CountingAllocator::of_process() > before);
/// ```
#[derive(Debug)]
pub struct CountingAllocator;

impl CountingAllocator {
    /// Allocations of all threads so far; the test harness and threads that start late are among
    /// them.
    pub fn of_process() -> usize {
        OF_PROCESS.load(Ordering::Relaxed)
    }

    /// Allocations and frees of the calling thread so far.
    pub fn of_thread() -> usize {
        OF_THREAD.get()
    }
}

// SAFETY: every method hands over to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        OF_PROCESS.fetch_add(1, Ordering::Relaxed);
        OF_THREAD.set(OF_THREAD.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        OF_THREAD.set(OF_THREAD.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}
