//! Talking to a child: a buffer of what it says with answers that can be waited for, and on top of
//! it a child in plain calls that wait.
//!
//! These are layers over the events. The reactor does not know them.

mod child;
mod conversation;
mod core;
mod error;
mod inbox;
mod output;
mod plain;
mod share;

pub use child::Child;
pub use conversation::{Conversation, Found};
pub use error::TalkError;
pub use output::{Captured, ChildOutput};
