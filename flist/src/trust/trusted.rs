//! Values that have passed the checks.

use std::ops::Deref;

use jiff::Timestamp;

/// Why a value may be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assurance {
    /// It was signed by those who may, and that is known to be fresh until then.
    Signed {
        /// When the first of the signatures expires.
        until: Timestamp,
    },
    /// Nobody has checked it: this node has no root of trust.
    Unchecked,
}

/// A value that may be installed. Only `trust` makes one: by checking, or, where a node has no root of trust, of what
/// a hub says ([`believed`](super::believed)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted<T> {
    value: T,
    assurance: Assurance,
}

impl<T> Trusted<T> {
    pub(super) fn signed(value: T, until: Timestamp) -> Self {
        Self { value, assurance: Assurance::Signed { until } }
    }

    /// Takes a value that nobody has checked.
    pub(super) fn unchecked(value: T) -> Self {
        Self { value, assurance: Assurance::Unchecked }
    }

    /// The value itself, which may be installed no more.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Why it may be installed.
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }
}

impl<T> Deref for Trusted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
