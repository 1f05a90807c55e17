//! The way from an error of this crate to an [`io::Error`](std::io::Error).
//!
//! The one rule: nothing of the error is lost on the way.

/// Makes `?` turn an error into an [`io::Error`](std::io::Error) in a function that returns
/// [`io::Result`](std::io::Result). The error stays inside, with its message and its source. `kind`
/// tells the kind.
macro_rules! into_io_error {
    ($Error:ty, $kind:expr) => {
        /// The error stays inside, with its message: see
        /// [`io::Error::downcast`](std::io::Error::downcast).
        impl From<$Error> for std::io::Error {
            fn from(error: $Error) -> Self {
                let kind: fn(&$Error) -> std::io::ErrorKind = $kind;
                Self::new(kind(&error), error)
            }
        }
    };
}
pub(crate) use into_io_error;
