//! Where transducers put their output.

/// Takes bytes in order.
pub trait Sink {
    /// Appends `bytes`.
    fn append(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
