//! The command `childminder`.

fn main() {}
