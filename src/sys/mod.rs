//! Every unsafe block of this crate.
#![allow(unsafe_code)]

pub(crate) mod bytes;
