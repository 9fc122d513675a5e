//! Names of the members of lists, and pointers that use them.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value};

use crate::config::{
    tree::{self, Node},
    values::DESTINATION,
};

/// A list whose members have names of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Members {
    /// By endpoint.
    Instances,
    /// By destination, host and path.
    Routes,
    /// By protocol, address and port.
    Vips,
}

/// The list that stands at `at`, if one does whose members have names.
pub(in crate::config) fn members_at<S: AsRef<str>>(at: &[S]) -> Option<Members> {
    match at {
        [list] if list.as_ref() == "routes" => Some(Members::Routes),
        [list] if list.as_ref() == "vips" => Some(Members::Vips),
        [services, _, list] if services.as_ref() == "services" && list.as_ref() == "instances" => {
            Some(Members::Instances)
        }
        _ => None,
    }
}

/// Whether a thing with a name of its own stands at `at`: a service, an instance, a route, a VIP.
/// It is there or it is not; settings on the other hand always hold, if only by default.
pub(in crate::config) fn is_member<S: AsRef<str>>(at: &[S]) -> bool {
    match at {
        [services, _] if services.as_ref() == "services" => true,
        [list @ .., _] => members_at(list).is_some(),
        [] => false,
    }
}

impl Members {
    /// The name of a member.
    pub(super) fn key(self, item: &Value) -> Option<String> {
        self.named(|field| match item.get(field)? {
            Value::String(text) => Some(text.trim().to_owned()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    }

    /// The name of a member of a tree.
    pub(in crate::config) fn key_of(self, item: &Node) -> Option<String> {
        let text = |node: &Node| match &node.value {
            tree::Value::Text(text) => Some(text.trim().to_owned()),
            tree::Value::Integer(number) => Some(number.to_string()),
            _ => None,
        };
        self.named(|field| match &item.value {
            tree::Value::Table(table) => text(table.get(field)?),
            // The short form of an instance.
            _ if field == "endpoint" => item.as_text().map(|text| text.trim().to_owned()),
            _ => None,
        })
    }

    fn named(self, field: impl Fn(&str) -> Option<String>) -> Option<String> {
        match self {
            Self::Instances => {
                let endpoint = field("endpoint")?;
                Some(endpoint.trim_end_matches('/').to_owned())
            }
            Self::Routes => {
                let host = field("host").unwrap_or_else(|| "*".to_owned());
                let path = field("path").filter(|path| path.starts_with('/'))?;
                let of_any = host.to_ascii_lowercase() + &path;
                match field("destination") {
                    // Hosts and paths have no spaces.
                    Some(text) => Some(format!("{} {of_any}", (DESTINATION.parse)(&text).ok()?)),
                    None => Some(of_any),
                }
            }
            Self::Vips => {
                let address: IpAddr = field("address")?.parse().ok()?;
                let port: u16 = field("port")?.parse().ok()?;
                let protocol = field("protocol").unwrap_or_else(|| "tcp".to_owned());
                Some(format!("{protocol}/{}", SocketAddr::new(address, port)))
            }
        }
    }

    /// What a member of this name has to have.
    pub(super) fn fields(self, name: &str) -> Vec<(&'static str, Value)> {
        match self {
            Self::Instances => vec![("endpoint", name.into())],
            Self::Routes => {
                let (destination, rest) = match name.split_once(' ') {
                    Some((destination, rest)) => (Some(destination), rest),
                    None => (None, name),
                };
                let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let host = (host != "*").then(|| ("host", host.into()));
                let destination = destination.map(|to| ("destination", to.into()));
                let matched = destination.into_iter().chain(host);
                matched.chain([("path", path.into())]).collect()
            }
            Self::Vips => {
                let (protocol, address) = name.split_once('/').unwrap_or(("tcp", name));
                let Ok(address) = address.parse::<SocketAddr>() else {
                    return Vec::new();
                };
                vec![
                    ("protocol", protocol.into()),
                    ("address", address.ip().to_string().into()),
                    ("port", address.port().into()),
                ]
            }
        }
    }

    /// The whole form of a member that was written in short.
    pub(super) fn whole(self, item: Value) -> Value {
        match item {
            Value::String(_) if self == Self::Instances => {
                Value::Object(Map::from_iter([("endpoint".to_owned(), item)]))
            }
            whole => whole,
        }
    }
}

/// A pointer as text (RFC 6901).
#[must_use]
pub fn pointer_text<S: AsRef<str>>(at: &[S]) -> String {
    at.iter()
        .map(|segment| {
            let segment = segment.as_ref().replace('~', "~0").replace('/', "~1");
            format!("/{segment}")
        })
        .collect()
}

/// A pointer from its text (RFC 6901); `None` when the text is none.
#[must_use]
pub fn segments(pointer: &str) -> Option<super::Pointer> {
    if pointer.is_empty() {
        return Some(super::Pointer::new());
    }
    let segments = pointer.strip_prefix('/')?.split('/');
    Some(
        segments
            .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
            .collect(),
    )
}
