//! The generator that a machine owns. Its stream is the same across versions and platforms, and its state can be stored.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng};
use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// ChaCha8, seeded by the driver; the only source of randomness in the core.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream of `seed`.
    pub fn from_seed(seed: u64) -> Rng {
        Rng(ChaCha8Rng::seed_from_u64(seed))
    }

    /// The stream of a 32-byte seed (production: from the operating system).
    pub fn from_bytes(seed: [u8; 32]) -> Rng {
        Rng(ChaCha8Rng::from_seed(seed))
    }

    /// An independent stream, derived from this one.
    pub fn fork(&mut self) -> Rng {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        Rng::from_bytes(seed)
    }

    /// Uniform over all 64-bit values.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, n)`; 0 for `n` = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // Multiply-shift: the bias is below 2^-64 * n, far under anything a wait could show.
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in `[0, limit)`, to the nanosecond; zero for a zero limit.
    pub fn duration_below(&mut self, limit: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// A random (v4) UUID.
    pub fn uuid(&mut self) -> uuid::Uuid {
        let mut b = [0; 16];
        self.0.fill_bytes(&mut b);
        uuid::Builder::from_random_bytes(b).into_uuid()
    }
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rng(at {})", self.0.get_word_pos())
    }
}

impl Hash for Rng {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.0.get_seed().hash(h);
        self.0.get_word_pos().hash(h);
    }
}
