//! The memory of tables follows how many there are, and no change waits for it.

use super::*;

/// So many services of two instances, the first of which has this weight, and a VIP for each.
fn weighing(services: u8, weight: u16) -> (Vec<ServiceSpec>, Vec<VipSpec>) {
    let of = |number: u8| {
        let name = format!("s{number}");
        let members: [(&str, u16); 2] = [(A, weight), (B, 10 + u16::from(number))];
        (
            service(&name, Algorithm::WeightedRoundRobin, &members),
            vip(&format!("192.0.2.{number}:80"), Protocol::Tcp, &name),
        )
    };
    (1..=services).map(of).unzip()
}

impl Kernel {
    /// Does what the worker does while nothing changes, until there is nothing left to do.
    fn rest(&mut self, world: &World) {
        for _ in 0..20 {
            self.now = self.now + QUIET / 10;
            self.settle(world);
            self.tidy();
        }
    }

    fn tidy(&mut self) {
        let datapath = &mut self.memory.clone();
        self.state.tidy(datapath, self.now).unwrap();
    }

    /// Tables that packets may read, and tables that there is memory for.
    fn tables(&self) -> (usize, usize) {
        (self.state.tables_in_use(), self.memory.room())
    }
}

#[test]
fn there_is_memory_for_the_tables_in_use_and_two_more() {
    let mut kernel = Kernel::new(64);
    let (services, vips) = weighing(10, 1);
    let world = World::new(services, vips);
    kernel.rest(&world);
    assert_eq!(kernel.tables(), (10, 12));

    // All services at once.
    let (services, vips) = weighing(10, 5);
    world.configure(services, vips);
    kernel.settle(&world);
    assert_eq!(kernel.tables(), (10, 20));
    kernel.rest(&world);
    assert_eq!(kernel.tables(), (10, 12));

    world.configure(Vec::new(), Vec::new());
    kernel.rest(&world);
    assert_eq!(kernel.tables(), (0, 0));
    assert_eq!(kernel.memory.unprepared(), 0);
}

#[test]
fn changes_one_by_one_make_no_memory_and_give_none_back() {
    let mut kernel = Kernel::new(64);
    let (services, vips) = weighing(1, 1);
    let world = World::new(services, vips);
    kernel.rest(&world);
    assert_eq!(kernel.tables(), (1, 3));
    for round in 0..20 {
        let (services, vips) = weighing(1, 2 + round % 7);
        world.configure(services, vips);
        kernel.settle(&world);
        assert_eq!(kernel.tables(), (1, 3), "round {round}");
        kernel.tidy();
        assert_eq!(kernel.tables(), (1, 3), "round {round}");
        kernel.now = kernel.now + GRACE;
    }
    // Faster than tables rest: more is needed, and kept for the next time.
    for weight in [11, 12, 13] {
        let (services, vips) = weighing(1, weight);
        world.configure(services, vips);
        kernel.settle(&world);
        kernel.tidy();
    }
    assert_eq!(kernel.tables(), (1, 5));
    kernel.now = kernel.now + QUIET / 2;
    kernel.settle(&world);
    kernel.tidy();
    assert_eq!(kernel.tables(), (1, 5));
    kernel.rest(&world);
    assert_eq!(kernel.tables(), (1, 3));
    assert_eq!(kernel.memory.unprepared(), 0);
}
