//! One value, replaced as a whole while others read it: the only unsafe code of this crate.
//!
//! Every reader owns a *pin*, a pointer that all may see to the value it reads. Writers free only
//! what is neither current nor pinned. A reader moves its pin only when it finds that the current
//! value has changed, so reading an unchanged one costs two loads and a comparison and no fence,
//! and it is always a writer that frees, never a reader.
//!
//! `T` must be `Send + Sync` for the types here to be, which the owner's `Arc<T>`s see to.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc as ValueArc;

use super::sync::{Arc, AtomicPtr, Mutex, MutexGuard, Ordering, fence};

/// Where values are published. Any number of threads may publish; they take turns.
pub(super) struct Published<T> {
    shared: Arc<Shared<T>>,
}

/// Aligned so that nothing else is written in the line that every reader polls.
#[repr(align(128))]
struct Shared<T> {
    current: AtomicPtr<T>,
    owner: Mutex<Owner<T>>,
}

struct Owner<T> {
    /// The current value, last, and those before it that some reader had pinned. Their addresses
    /// are only ever shared as pointers made by `Arc::as_ptr`.
    values: Vec<ValueArc<T>>,
    pins: Vec<Arc<AtomicPtr<T>>>,
}

/// One reader of what is published.
///
/// Keeps the value it last read alive until it reads again or is dropped.
pub(super) struct Pinned<T> {
    shared: Arc<Shared<T>>,
    pin: Arc<AtomicPtr<T>>,
}

impl<T> Published<T> {
    pub(super) fn new(value: T) -> Self {
        let value = ValueArc::new(value);
        let current = AtomicPtr::new(ValueArc::as_ptr(&value).cast_mut());
        let owner = Mutex::new(Owner { values: vec![value], pins: Vec::new() });
        Self { shared: Arc::new(Shared { current, owner }) }
    }

    /// Makes what `next` makes of the current value the current one, and frees those that no reader
    /// can reach any more. `next` may not come back here.
    pub(super) fn publish(&self, next: impl FnOnce(&T) -> T) {
        let mut owner = self.shared.lock();
        let before = owner.values.last().expect("the current value, from `new` or `publish`");
        let value = ValueArc::new(next(before));
        let current = ValueArc::as_ptr(&value);
        owner.values.push(value);
        self.shared.current.store(current.cast_mut(), Ordering::Release);
        // Pairs with the fence in `repin`: a reader whose pin is not seen below sees `current`.
        fence(Ordering::SeqCst);
        let Owner { values, pins } = &mut *owner;
        let unreachable = values.extract_if(.., |value| {
            let value = ValueArc::as_ptr(value);
            // Acquire: all reads through a pin come before its being moved away.
            value != current && pins.iter().all(|pin| !ptr::eq(pin.load(Ordering::Acquire), value))
        });
        let unreachable: Vec<_> = unreachable.collect();
        drop(owner);
        drop(unreachable);
    }

    pub(super) fn reader(&self) -> Pinned<T> {
        let pin = Arc::new(AtomicPtr::new(ptr::null_mut()));
        self.shared.lock().pins.push(Arc::clone(&pin));
        Pinned { shared: Arc::clone(&self.shared), pin }
    }

    /// How many values are alive, the current one included.
    #[cfg(all(test, not(loom)))]
    pub(super) fn values(&self) -> usize {
        self.shared.lock().values.len()
    }
}

impl<T> Shared<T> {
    /// The lists stay whole even if a `T` panicked when dropped: that happens after unlocking.
    fn lock(&self) -> MutexGuard<'_, Owner<T>> {
        self.owner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<T> Pinned<T> {
    /// The current value, or one that was current a moment ago.
    ///
    /// Lock-free; wait-free while nothing is published.
    #[inline]
    pub(super) fn get(&mut self) -> &T {
        let mut current = self.shared.current.load(Ordering::Acquire);
        if current != self.pin.load(Ordering::Relaxed) {
            current = self.repin();
        }
        // SAFETY: `current` points into an `Arc` of `Owner::values` and equals the pin, which only
        // `repin` moves, for which this borrow of `self` must have ended. `repin` returned once the
        // pin was set while the value was current; from then on every `publish` that replaces it
        // sees the pin and leaves it among `values`, so no other value has its address either.
        unsafe { &*current }
    }

    #[cold]
    fn repin(&self) -> *mut T {
        let mut seen = self.shared.current.load(Ordering::Relaxed);
        loop {
            // Release: reads through the pin as it was come before.
            self.pin.store(seen, Ordering::Release);
            // Pairs with the fence in `publish`.
            fence(Ordering::SeqCst);
            let current = self.shared.current.load(Ordering::Acquire);
            if current == seen {
                // Not `seen`, which might stem from a freed value at the same address.
                return current;
            }
            seen = current;
        }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        let mut owner = self.shared.lock();
        owner.pins.retain(|pin| !Arc::ptr_eq(pin, &self.pin));
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::cell::UnsafeCell;
    use loom::thread;

    use super::*;

    /// Two halves that agree until dropped. Dropping writes, so loom finds every read that is not
    /// ordered before it.
    struct Halves(UnsafeCell<(u64, u64)>);

    // SAFETY: written only when dropped; the models check that nobody reads by then.
    unsafe impl Sync for Halves {}

    impl Halves {
        fn new(number: u64) -> Self {
            Self(UnsafeCell::new((number, number)))
        }

        fn read(&self) -> u64 {
            let (left, right) = self.0.with(|halves| {
                // SAFETY: nobody writes while a reader may read, which is what loom checks here.
                unsafe { *halves }
            });
            assert_eq!(left, right, "a torn or freed value");
            left
        }
    }

    impl Drop for Halves {
        fn drop(&mut self) {
            self.0.with_mut(|halves| {
                // SAFETY: the value is being dropped, so this is the only reference.
                unsafe { (*halves).1 = u64::MAX };
            });
        }
    }

    fn read_rising(reader: &mut Pinned<Halves>, times: usize) {
        let mut last = 0;
        for _ in 0..times {
            let number = reader.get().read();
            assert!(number >= last, "{number} after {last}");
            last = number;
        }
    }

    /// A reader that pins, moves its pin and leaves while values are replaced under it.
    #[test]
    fn no_value_is_freed_under_its_reader() {
        loom::model(|| {
            let published = Published::new(Halves::new(0));
            let mut reader = published.reader();
            let reading = thread::spawn(move || read_rising(&mut reader, 2));
            published.publish(|_| Halves::new(1));
            published.publish(|_| Halves::new(2));
            reading.join().unwrap();
            published.publish(|_| Halves::new(3));
            assert_eq!(published.shared.lock().values.len(), 1);
        });
    }

    /// Two readers, one of which registers while a value is published.
    #[test]
    fn readers_come_and_go() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let published = Arc::new(Published::new(Halves::new(0)));
            let mut early = published.reader();
            let early = thread::spawn(move || read_rising(&mut early, 2));
            let late = {
                let published = Arc::clone(&published);
                thread::spawn(move || read_rising(&mut published.reader(), 1))
            };
            published.publish(|_| Halves::new(1));
            early.join().unwrap();
            late.join().unwrap();
        });
    }
}
