//! A configuration for people: in a few lines, or every setting.

use std::fmt;

use super::Config;
use crate::model::Protocol;

/// A configuration in a few lines.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a>(&'a Config);

/// Every setting in force, one a line, with its source.
#[derive(Clone, Copy, Debug)]
pub struct Effective<'a>(&'a Config);

impl Config {
    /// What the configuration amounts to, and what is worth knowing about it.
    #[must_use]
    pub const fn summary(&self) -> Summary<'_> {
        Summary(self)
    }

    /// Every setting in force.
    #[must_use]
    pub const fn effective(&self) -> Effective<'_> {
        Effective(self)
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        let desired = &config.desired;
        let instances = desired.services.iter().map(|s| s.instances.len()).sum();
        let udp = desired
            .vips
            .iter()
            .filter(|vip| vip.protocol == Protocol::Udp)
            .count();
        write!(
            f,
            "{} with {}, {}, {} ({} TCP, {udp} UDP)",
            count(desired.services.len(), "service"),
            count(instances, "instance"),
            count(desired.routes.len(), "route"),
            count(desired.vips.len(), "VIP"),
            desired.vips.len() - udp,
        )?;
        let listeners: Vec<String> = desired
            .listeners
            .iter()
            .map(|l| l.address.to_string())
            .collect();
        let listeners = if listeners.is_empty() {
            "not listened for".to_owned()
        } else {
            format!("on {}", listeners.join(", "))
        };
        write!(f, "\nHTTP {listeners}; ")?;
        let beside = config.daemon.api.on_gateway && !desired.listeners.is_empty();
        let places: Vec<_> = config
            .daemon
            .api
            .listen
            .iter()
            .map(ToString::to_string)
            .collect();
        let places = places.join(", ");
        match (places.is_empty(), beside) {
            (false, true) => write!(f, "API on {places} and beside HTTP")?,
            (false, false) => write!(f, "API on {places}")?,
            (true, true) => f.write_str("API beside HTTP")?,
            (true, false) => f.write_str("no API")?,
        }
        for notice in &config.notices {
            write!(f, "\nnote: {notice}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Effective<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<(String, String)> = self
            .0
            .settings
            .iter()
            .map(|s| (format!("{} = {}", s.path, s.value), s.origin.to_string()))
            .collect();
        let width = lines
            .iter()
            .map(|(setting, _)| setting.chars().count())
            .max()
            .unwrap_or(0);
        // One long list must not push every comment off the screen.
        let width = width.min(72);
        for (setting, origin) in lines {
            writeln!(f, "{setting:<width$}  # {origin}")?;
        }
        Ok(())
    }
}

fn count(number: usize, thing: &str) -> String {
    if number == 1 {
        format!("1 {thing}")
    } else {
        format!("{number} {thing}s")
    }
}
