//! The command's parts. They use the library's public API only, as any program would.

#[allow(dead_code, unused_imports)] // until the command reads its file
pub(crate) mod config;
