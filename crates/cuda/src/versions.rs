//! A list that grows while others read it.

use std::sync::OnceLock;

/// Versions of a value: old ones stay where they are, so that who reads one may keep it.
pub(crate) struct Versions<T> {
    value: T,
    next: OnceLock<Box<Versions<T>>>,
}

impl<T> Versions<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value, next: OnceLock::new() }
    }

    fn last(&self) -> &Self {
        let mut last = self;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }

    /// The newest version.
    pub(crate) fn newest(&self) -> &T {
        &self.last().value
    }

    /// Adds a version. Only one thread may do so.
    pub(crate) fn push(&self, value: T) {
        let added = self.last().next.set(Box::new(Self::new(value)));
        assert!(added.is_ok(), "versions have one writer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_keep_what_they_have() {
        let versions = Versions::new(vec![1]);
        let first = versions.newest();
        versions.push(vec![1, 2]);
        versions.push(vec![1, 2, 3]);
        assert_eq!((first.as_slice(), versions.newest().as_slice()), (&[1][..], &[1, 2, 3][..]));
    }
}
