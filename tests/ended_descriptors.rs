//! Tests that a process which has ended holds no descriptor, although it can still be asked. It is
//! the only test of its file, because it counts the descriptors of this process.

mod util;

use util::{COMBINATIONS, World, open_fds, sh};

#[test]
fn it_holds_nothing() {
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        // What the reactor opens for the first process stays open.
        assert!(world.run(&sh("exit 0")).exit.success());
        world.settle();
        let before = open_fds();
        let ids: Vec<_> = (0..20).map(|_| world.spawn(&sh("exit 3"))).collect();
        let mut asked = 0;
        for id in &ids {
            world.until(|log| log.ended(*id));
            let code = world.reactor.process(*id).and_then(|process| process.exit()?.code());
            asked += usize::from(code == Some(3));
        }
        assert!(asked > 0);
        assert_eq!(open_fds(), before);
        world.settle();
        assert!(ids.iter().all(|id| world.reactor.process(*id).is_none()));
    }
}
