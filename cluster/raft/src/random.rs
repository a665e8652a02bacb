//! Random numbers. A simulation has them from a seed, so that a run can be repeated.

use rand::distr::{Distribution, StandardUniform};

/// A random value.
#[cfg(not(feature = "simulation"))]
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}

/// A value that follows from the seed, and from how many were drawn before.
#[cfg(feature = "simulation")]
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    use rand::RngExt as _;
    SEEDED.with_borrow_mut(|random| random.random())
}

/// Sets the seed of all random numbers that this thread draws from now on, those of elections excepted. A simulation has one
/// thread.
#[cfg(feature = "simulation")]
pub fn seed(seed: u64) {
    use rand::SeedableRng as _;
    SEEDED.set(rand::rngs::StdRng::seed_from_u64(seed));
}

#[cfg(feature = "simulation")]
thread_local! {
    static SEEDED: std::cell::RefCell<rand::rngs::StdRng> = {
        use rand::SeedableRng as _;
        std::cell::RefCell::new(rand::rngs::StdRng::seed_from_u64(0))
    };
}
