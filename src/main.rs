//! The command `childminder`.

mod cli;

fn main() {}
