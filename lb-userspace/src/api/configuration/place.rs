//! Parts of the configuration that have a URL: services, instances, routes, VIPs.

use serde_json::{Map, Value};

use super::etag;
use crate::{
    api::error::{ApiError, Fault},
    config::{
        Document, Pointer,
        document::{self, keyed, natural},
    },
    registry::Snapshot,
};

/// Where a part stands, whether or not it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::api) enum Place {
    Service(String),
    Instance {
        service: String,
        name: String,
        /// Whether there is one, configured or not.
        serves: bool,
    },
    Route(String),
    Vip(String),
}

impl Place {
    /// The instance that is called `name` in any of its forms. The snapshot knows which address is
    /// meant; who is not there yet is called as the request calls it.
    pub(in crate::api) fn instance(snapshot: &Snapshot, service: &str, name: &str) -> Self {
        let found = snapshot.service(service).and_then(|service| {
            let position = service.find(name)?;
            Some(
                service.members[position]
                    .instance
                    .endpoint
                    .name()
                    .to_owned(),
            )
        });
        let as_written = || {
            let name = name.trim_end_matches('/');
            // A proxy on the way may have folded the slashes.
            match name.strip_prefix("http:/") {
                Some(rest) if !rest.starts_with('/') => format!("http://{rest}"),
                _ => name.to_owned(),
            }
        };
        Self::Instance {
            service: service.to_owned(),
            serves: found.is_some(),
            name: found.unwrap_or_else(as_written),
        }
    }

    /// The route that is called `name`. A slash at the end may belong to its path, or be missing
    /// because it stood at the end of the URL.
    pub(in crate::api) fn route(document: &Document, name: &str) -> Self {
        let place = Self::Route(name.to_owned());
        let of_any = name.split_once(' ').map_or(name, |(_, of_any)| of_any);
        let slashed = Self::Route(format!("{name}/"));
        let is_slashed = document.at(&place.pointer()).is_none()
            && (document.at(&slashed.pointer()).is_some() || !of_any.contains('/'));
        if is_slashed { slashed } else { place }
    }

    /// The same of another name.
    pub(in crate::api) fn named(self, name: String) -> Self {
        match self {
            Self::Service(_) => Self::Service(name),
            Self::Instance { service, .. } => Self::Instance {
                service,
                name,
                serves: false,
            },
            Self::Route(_) => Self::Route(name),
            Self::Vip(_) => Self::Vip(name),
        }
    }

    /// The service of an instance has to be there.
    pub(in crate::api) fn has_owner(&self, document: &Document) -> Result<(), ApiError> {
        let Self::Instance { service, .. } = self else {
            return Ok(());
        };
        let service = Self::Service(service.clone());
        match document.at(&service.pointer()) {
            Some(_) => Ok(()),
            None => Err(service.missing(document)),
        }
    }

    /// The list or table that it is a member of.
    pub(in crate::api) fn around(&self) -> Pointer {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        match self {
            Self::Service(_) => owned(&["services"]),
            Self::Instance { service, .. } => owned(&["services", service, "instances"]),
            Self::Route(_) => owned(&["routes"]),
            Self::Vip(_) => owned(&["vips"]),
        }
    }

    pub(in crate::api) fn name(&self) -> &str {
        match self {
            Self::Service(name)
            | Self::Instance { name, .. }
            | Self::Route(name)
            | Self::Vip(name) => name,
        }
    }

    pub(in crate::api) fn pointer(&self) -> Pointer {
        let mut pointer = self.around();
        pointer.push(self.name().to_owned());
        pointer
    }

    /// Its tag; `None` when it is not there.
    pub(in crate::api) fn tag(&self, document: &Document) -> Option<String> {
        self.shown(document).map(|part| etag(&part))
    }

    /// It, in the natural form and without secrets; `None` when it is not there.
    pub(in crate::api) fn shown(&self, document: &Document) -> Option<Value> {
        let mut at = self.pointer();
        document.at(&at)?;
        let shown = document.shown();
        let part = document::get(&shown, &at)?;
        Some(natural(part, &mut at))
    }

    /// Its keyed form as `body` has it, completed by what its URL says.
    pub(in crate::api) fn of(&self, mut body: Map<String, Value>) -> Result<Value, ApiError> {
        let around = self.around();
        document::complete(&around, self.name(), &mut body);
        let body = Value::Object(body);
        self.keeps_name(&body)?;
        Ok(keyed(body, &mut self.pointer()))
    }

    /// What has a name keeps it: under another one it would be something else.
    pub(in crate::api) fn keeps_name(&self, body: &Value) -> Result<(), ApiError> {
        let Some(found) = document::name_in(&self.around(), body) else {
            return Ok(());
        };
        if found == self.name() {
            return Ok(());
        }
        let pointer = match self {
            Self::Instance { .. } => "/endpoint",
            _ => "",
        };
        Err(ApiError::Body {
            expected: format!(
                "what the URL names, {}, found {found}; what has another name is something else: \
                 make that, and remove this",
                self.name()
            ),
            faults: vec![Fault {
                origin: None,
                pointer: pointer.to_owned(),
                expected: self.name().to_owned(),
                found,
            }],
        })
    }

    /// The error that says that it is not there.
    pub(in crate::api) fn missing(&self, document: &Document) -> ApiError {
        let around = document.at(&self.around());
        let known = around.and_then(Value::as_object);
        let known = known.map_or_else(Vec::new, |known| known.keys().cloned().collect());
        let found = self.name().to_owned();
        match self {
            Self::Service(_) => ApiError::NoService { found, known },
            Self::Instance {
                service,
                name,
                serves: true,
            } => ApiError::Conflict(format!(
                "expected an instance that is configured, found {name} of service {service}, which \
                 a source has named: PUT {} gives it settings of its own, drain or disable takes \
                 it out of traffic, and its source decides whether it is there",
                self.url()
            )),
            Self::Instance { service, .. } => {
                let service = service.clone();
                match document.at(&["services", &service]) {
                    Some(_) => ApiError::NoInstance {
                        service,
                        found,
                        known,
                    },
                    None => Self::Service(service).missing(document),
                }
            }
            Self::Route(_) => ApiError::NoRoute { found, known },
            Self::Vip(_) => ApiError::NoVip { found, known },
        }
    }

    /// The error that says that it is there already.
    pub(in crate::api) fn taken(&self) -> ApiError {
        let what = match self {
            Self::Service(_) => "service",
            Self::Instance { .. } => "instance",
            Self::Route(_) => "route",
            Self::Vip(_) => "VIP",
        };
        ApiError::Conflict(format!(
            "expected a {what} that is not there yet, found {}; PATCH or PUT {} changes it",
            self.name(),
            self.url()
        ))
    }

    /// Its path.
    pub(in crate::api) fn url(&self) -> String {
        let base = "/api/v1/loadbalancer";
        match self {
            Self::Service(name) => format!("{base}/services/{}", encoded(name)),
            Self::Instance { service, name, .. } => {
                format!("{base}/instances/{}/{}", encoded(service), encoded(name))
            }
            Self::Route(name) => format!("{base}/routes/{}", encoded(name)),
            Self::Vip(name) => format!("{base}/vips/{}", encoded(name)),
        }
    }
}

/// `text` as one segment of a path.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
