//! Telling how far a long work is.

/// Is told how far a work is, by whichever of its threads has done something.
pub trait Observer: Sync {
    /// How many plain bytes there are to do; told once, when it is known.
    fn total(&self, bytes: u64);

    /// So many more plain bytes are done.
    fn advance(&self, bytes: u64);
}

/// Nobody who wants to know.
impl Observer for () {
    fn total(&self, _bytes: u64) {}

    fn advance(&self, _bytes: u64) {}
}
