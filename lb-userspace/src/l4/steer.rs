//! Connections for the proxy's VIPs: the kernel's side of [`Steer`].
//!
//! The program is there only while there is something to hand over: who has no such VIPs needs no
//! rights for it.

use std::{collections::BTreeMap, net::TcpListener};

use lb_common::{Address, MAX_STEER_RANGES, SteerPorts};

use super::{datapath::kernel::steer::Steering, plan::address};
use crate::{
    model::{GatewayVip, ports_by_prefix},
    net::{Steer, Steered},
};

/// See the module.
#[derive(Debug, Default)]
pub struct Steerer {
    steering: Option<Steering>,
    /// What programs have counted that are gone.
    before: Steered,
}

impl Steer for Steerer {
    fn follow(
        &mut self,
        vips: &[GatewayVip],
        sockets: [Option<&TcpListener>; 2],
    ) -> Result<(), String> {
        if vips.is_empty() {
            self.before = self.steered();
            self.steering = None;
            return Ok(());
        }
        let steering = match &mut self.steering {
            Some(steering) => steering,
            none => none.insert(Steering::open().map_err(|error| error.to_string())?),
        };
        for (index, socket) in (0..).zip(sockets) {
            if let Some(socket) = socket {
                let put = steering.put_socket(index, socket);
                put.map_err(|error| error.to_string())?;
            }
        }
        let put = steering.put_ports(&ports(vips));
        put.map_err(|error| error.to_string())
    }

    fn steered(&self) -> Steered {
        let counts = self.steering.as_ref().map(Steering::counts);
        let counts = counts.and_then(Result::ok).unwrap_or_default();
        Steered {
            handed: self.before.handed + counts.handed,
            orphaned: self.before.orphaned + counts.orphaned,
        }
    }
}

/// What the program looks up: by first address and length, in the form of the maps.
fn ports(vips: &[GatewayVip]) -> BTreeMap<(Address, u32), SteerPorts> {
    let all = ports_by_prefix(vips).into_iter();
    all.map(|(prefix, ranges)| {
        let mut ports = SteerPorts::NONE;
        // The configuration has no more of them.
        for (place, (first, last)) in ports
            .ranges
            .iter_mut()
            .zip(ranges.iter().take(MAX_STEER_RANGES))
        {
            *place = [*first, *last];
        }
        let mapped = if prefix.address().is_ipv4() { 96 } else { 0 };
        let length = mapped + u32::from(prefix.length());
        ((address(prefix.address()), length), ports)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ports;

    #[test]
    fn what_is_looked_up_is_in_the_form_of_the_maps() {
        let vip = |prefix: &str, ports| GatewayVip {
            prefix: prefix.parse().unwrap(),
            ports,
        };
        let all = ports(&[
            vip("10.0.0.0/8", Ports::One(80)),
            vip("2001:db8::/32", Ports::Any),
        ]);
        let v4 = ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 0], 104);
        assert_eq!(all[&v4].ranges[..2], [[80, 80], [1, 0]]);
        let mut v6 = [0; 16];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        assert_eq!(all[&(v6, 32)].ranges[0], [0, u16::MAX]);
        assert_eq!(all.len(), 2);
    }
}
