//! Short chapters about the library and the command. Their Rust examples run as tests.
//!
//! These modules hold text only. They add nothing to the library, and a build leaves them out.
//!
//! 1. [A first program](first_program)
//! 2. [Your own loop](own_loop)
//! 3. [Talking to a child](talking_to_a_child)
//! 4. [Whole trees of processes](trees)
//! 5. [Order, readiness, and giving up](order)
//! 6. [A harness, and a pool of jobs](harness)
//! 7. [What each figure means](figures)
//! 8. [Terminals](terminals)
//! 9. [Your policy in virtual time](virtual_time)
//! 10. [In other people's programs](embedding)
//! 11. [Coming from Twisted](from_twisted)
//! 12. [Coming from supervisord](from_supervisord)
//! 13. [Coming from std, duct, subprocess, expectrl or tokio](coming_from)
//! 14. [`childminder run`](run)
//! 15. [`childminder measure`](measure)
//! 16. [`childminder up`](up)
//! 17. [Configurations of other tools](moving)
//! 18. [As a service of systemd](systemd)
//! 19. [In a container](containers)
//! 20. [In a cluster](clusters)
//! 21. [Who is trusted with what](trust)
//! 22. [Where each promise holds](platforms)
//! 23. [Dependencies](dependencies)
//! 24. [How it is built](design)
//! 25. [Contributing](contributing)

#[doc = include_str!("first_program.md")]
pub mod first_program {}

#[doc = include_str!("own_loop.md")]
pub mod own_loop {}

#[doc = include_str!("talking_to_a_child.md")]
pub mod talking_to_a_child {}

#[doc = include_str!("trees.md")]
pub mod trees {}

#[doc = include_str!("order.md")]
pub mod order {}

#[doc = include_str!("harness.md")]
pub mod harness {}

#[doc = include_str!("figures.md")]
pub mod figures {}

#[doc = include_str!("terminals.md")]
pub mod terminals {}

#[doc = include_str!("virtual_time.md")]
pub mod virtual_time {}

#[doc = include_str!("embedding.md")]
pub mod embedding {}

#[doc = include_str!("from_twisted.md")]
pub mod from_twisted {}

#[doc = include_str!("from_supervisord.md")]
pub mod from_supervisord {}

#[doc = include_str!("coming_from.md")]
pub mod coming_from {}

#[doc = include_str!("run.md")]
pub mod run {}

#[doc = include_str!("measure.md")]
pub mod measure {}

#[doc = include_str!("up.md")]
#[doc = "\n# A file with every key\n\n```toml"]
#[doc = include_str!("../cli/config/example.toml")]
#[doc = "```"]
pub mod up {}

#[doc = include_str!("moving.md")]
pub mod moving {}

#[doc = include_str!("systemd.md")]
pub mod systemd {}

#[doc = include_str!("containers.md")]
pub mod containers {}

#[doc = include_str!("clusters.md")]
pub mod clusters {}

#[doc = include_str!("trust.md")]
pub mod trust {}

#[doc = include_str!("platforms.md")]
pub mod platforms {}

#[doc = include_str!("dependencies.md")]
pub mod dependencies {}

#[doc = include_str!("design.md")]
pub mod design {}

#[doc = include_str!("contributing.md")]
pub mod contributing {}
