//! `api.listen` and the sockets among it.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{
    accounts,
    forms::{Form, Pattern, Refused},
    tree::{Node, Value},
    values::LISTEN,
};
use crate::model::{ApiAddress, SocketOwner};

/// The longest path of a socket, in bytes: what the kernel takes, less what lb appends to make it.
const LONGEST: usize = 100;

/// Where the management API is: one place, several, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApiListen;

impl Form for ApiListen {
    type Value = Vec<ApiAddress>;

    fn expected(&self) -> String {
        "an IP address and a port from 1 to 65535, a port alone for 127.0.0.1, unix: and an \
         absolute path, several of these, or \"off\""
            .to_owned()
    }

    fn example(&self) -> String {
        "\"127.0.0.1:7700\"".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<Vec<ApiAddress>, Refused> {
        let texts: Vec<String> = match &node.value {
            Value::Text(text) if node.origin.is_untyped() => {
                text.split(',').map(|part| part.trim().to_owned()).collect()
            }
            Value::Text(text) => vec![text.trim().to_owned()],
            Value::Integer(port) => vec![port.to_string()],
            Value::List(items) => items.iter().map(text).collect::<Result<_, _>>()?,
            _ => return Err(Refused::default()),
        };
        if texts == ["off"] {
            return Ok(Vec::new());
        }
        let mut places = Vec::new();
        for text in texts {
            let place = place(&text)?;
            if places.contains(&place) {
                return Err(Refused::because(format!("{text:?} is there twice")));
            }
            places.push(place);
        }
        Ok(places)
    }

    fn show(&self, places: &Vec<ApiAddress>) -> String {
        let shown: Vec<_> = places
            .iter()
            .map(|p| format!("{:?}", p.to_string()))
            .collect();
        match shown.as_slice() {
            [] => "\"off\"".to_owned(),
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        }
    }

    fn schema(&self) -> serde_json::Value {
        let place = json!({"type": ["string", "integer"]});
        json!({"anyOf": [place, {"type": "array", "items": place}]})
    }
}

fn text(item: &Node) -> Result<String, Refused> {
    match &item.value {
        Value::Text(text) => Ok(text.trim().to_owned()),
        Value::Integer(port) => Ok(port.to_string()),
        _ => Err(Refused::because("an item of the list is no text")),
    }
}

fn place(text: &str) -> Result<ApiAddress, Refused> {
    let Some(path) = text.strip_prefix("unix:") else {
        let mut address = (LISTEN.parse)(text)?;
        // Whoever wants the API open to the network has to say so.
        if !text.contains('.') && address.is_ipv4() && address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        return Ok(ApiAddress::Tcp(address));
    };
    let path = Path::new(path);
    if !path.is_absolute() || path.file_name().is_none() || text.contains('\0') {
        return Err(Refused::because(
            "what follows unix: is no absolute path of a file",
        ));
    }
    if path.as_os_str().len() > LONGEST {
        let why = format!("the path of a socket may have {LONGEST} bytes");
        return Err(Refused::because(why));
    }
    Ok(ApiAddress::Unix(PathBuf::from(path)))
}

/// Who may connect to a socket.
pub(super) const MODE: Pattern<u32> = Pattern {
    expected: "three or four octal digits that let the owner read and write",
    example: "0660",
    numbers: false,
    secret: false,
    parse: |text| {
        let digits = (3..=4).contains(&text.len());
        let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits);
        mode.filter(|mode| mode & 0o600 == 0o600 && *mode <= 0o777)
            .ok_or_else(Refused::default)
    },
    show: |mode| format!("{mode:04o}"),
};

/// Whom a socket belongs to.
pub(super) const OWNER: Pattern<SocketOwner> = Pattern {
    expected: "a user, :GROUP or USER:GROUP, by name or number",
    example: ":root",
    numbers: false,
    secret: false,
    parse: |text| {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let found = |name: &str, what: &str, find: fn(&str) -> Option<u32>| match name {
            "" => Ok(None),
            name => match find(name) {
                Some(id) => Ok(Some(id)),
                None => Err(Refused::because(format!(
                    "this host has no {what} {name:?}"
                ))),
            },
        };
        let owner = SocketOwner {
            text: text.to_owned(),
            user: found(user, "user", accounts::user_id)?,
            group: found(group, "group", accounts::group_id)?,
        };
        let somebody = owner.user.is_some() || owner.group.is_some();
        somebody.then_some(owner).ok_or_else(Refused::default)
    },
    show: |owner| owner.text.clone(),
};
