//! VIPs of several ports, from the snapshot to the packet and the sweep.

use super::*;
use crate::model::{Ports, VipSpec};

fn ranged(ports: Ports, service: &str) -> VipSpec {
    VipSpec {
        ports,
        ..vip(VIP, Protocol::Tcp, service)
    }
}

impl Balancer {
    /// Sends a packet to a port of the VIP's address; where it went.
    fn to(&self, port: u16, flags: u8) -> Result<String, Counter> {
        let mut packet = tcp([10, 1, 0, 1], 5000, [192, 0, 2, 1], port, flags);
        match self.memory.send(&mut packet) {
            Verdict::Transmit => {
                let ip = IpAddr::from(<[u8; 4]>::try_from(&packet[30..34]).unwrap());
                Ok(format!(
                    "{ip}:{}",
                    u16::from_be_bytes([packet[36], packet[37]])
                ))
            }
            Verdict::Pass(reason) | Verdict::Drop(reason) => Err(reason),
            left => panic!("left otherwise: {left:?}"),
        }
    }
}

#[test]
fn ranges_come_and_go_and_take_their_connections_along() {
    let services = || {
        let one = |name, at| service(name, Algorithm::RoundRobin, &[(at, 1)]);
        vec![one("web", A), one("many", B), one("rest", C)]
    };
    let mut balancer = Balancer::new(services());
    assert_eq!(balancer.to(8500, SYN), Err(Counter::PassedNotVip));
    balancer.world.configure(
        services(),
        vec![
            vip(VIP, Protocol::Tcp, "web"),
            ranged(Ports::Range(8000, 8999), "many"),
            ranged(Ports::Any, "rest"),
        ],
    );
    balancer.settle();
    assert_eq!(balancer.to(80, SYN).as_deref(), Ok(A));
    assert_eq!(balancer.to(8500, SYN).as_deref(), Ok("10.0.0.2:8500"));
    assert_eq!(balancer.to(22, SYN).as_deref(), Ok("10.0.0.3:22"));
    assert!(balancer.walk().into_values().eq([1, 1, 1]));
    assert_eq!(balancer.memory.kernel().flows().len(), 6);
    // One port of the range is given to another service. What has begun goes on.
    let apart = VipSpec {
        ports: Ports::One(8600),
        ..vip(VIP, Protocol::Tcp, "web")
    };
    balancer.world.configure(
        services(),
        vec![
            vip(VIP, Protocol::Tcp, "web"),
            ranged(Ports::Range(8000, 8999), "many"),
            apart,
        ],
    );
    balancer.settle();
    balancer.walk();
    assert_eq!(balancer.to(8600, SYN).as_deref(), Ok(A));
    assert_eq!(balancer.to(8500, ACK).as_deref(), Ok("10.0.0.2:8500"));
    // Those of any port are gone, and their connections with them.
    assert_eq!(balancer.to(22, ACK), Err(Counter::PassedNotVip));
    assert_eq!(balancer.memory.kernel().flows().len(), 6);
    balancer.world.configure(services(), vec![]);
    balancer.settle();
    balancer.walk();
    assert!(balancer.memory.kernel().flows().is_empty());
    assert!(balancer.memory.kernel().vip_addresses().is_empty());
    assert!(balancer.memory.kernel().counters().adds_up());
}
