//! Stories of one job.
