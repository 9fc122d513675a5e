//! Fields of the access log.

/// A field of a line, in the order of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LogField {
    /// `info`, or `warn` from status 500 on.
    Level,
    /// When the answer was complete.
    Timestamp,
    /// In a few words what became of the request.
    Message,
    /// The service.
    Service,
    /// The instance that was asked last.
    Instance,
    /// The method.
    Method,
    /// The path without query.
    Path,
    /// The status.
    Status,
    /// Time from the request's head to the end of its answer.
    Duration,
    /// The client's address.
    ClientIp,
    /// Whether the answer is complete and below 500.
    Success,
    /// The instance's health score.
    InstanceScore,
    /// The instance's other requests and kernel connections.
    InstanceConnections,
    /// The instance's success rate in percent.
    InstanceSuccessRate,
    /// How many instances were asked, when there were several.
    Attempts,
    /// The trace id.
    TraceId,
    /// What other than the instance ended the request.
    Reason,
    /// The address and port that the client has connected to.
    Destination,
}

impl LogField {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Level,
        Self::Timestamp,
        Self::Message,
        Self::Service,
        Self::Instance,
        Self::Method,
        Self::Path,
        Self::Status,
        Self::Duration,
        Self::ClientIp,
        Self::Success,
        Self::InstanceScore,
        Self::InstanceConnections,
        Self::InstanceSuccessRate,
        Self::Attempts,
        Self::TraceId,
        Self::Reason,
        Self::Destination,
    ];

    /// Those of a line where nothing is said. Where a client has connected to is the same for all of
    /// them, as a rule.
    pub const USUAL: &[Self] = Self::ALL.split_at(Self::ALL.len() - 1).0;

    /// The name in log and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Level => "level",
            Self::Timestamp => "timestamp",
            Self::Message => "message",
            Self::Service => "service",
            Self::Instance => "instance",
            Self::Method => "method",
            Self::Path => "path",
            Self::Status => "status",
            Self::Duration => "duration",
            Self::ClientIp => "client_ip",
            Self::Success => "success",
            Self::InstanceScore => "instance_score",
            Self::InstanceConnections => "instance_connections",
            Self::InstanceSuccessRate => "instance_success_rate",
            Self::Attempts => "attempts",
            Self::TraceId => "trace_id",
            Self::Reason => "reason",
            Self::Destination => "destination",
        }
    }
}

/// Some of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogFields(u32);

impl LogFields {
    /// All fields.
    pub const ALL: Self = Self((1 << LogField::ALL.len()) - 1);

    /// The usual ones.
    pub const USUAL: Self = Self((1 << LogField::USUAL.len()) - 1);

    /// Whether a field is among them.
    #[must_use]
    pub const fn has(self, field: LogField) -> bool {
        self.0 >> field as u8 & 1 == 1
    }
}

impl FromIterator<LogField> for LogFields {
    fn from_iter<I: IntoIterator<Item = LogField>>(fields: I) -> Self {
        let bits = fields.into_iter().map(|field| 1 << field as u8);
        Self(bits.fold(0, |all, bit: u32| all | bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_chosen_one_by_one() {
        let all: LogFields = LogField::ALL.into_iter().collect();
        assert_eq!(all, LogFields::ALL);
        for chosen in LogField::ALL {
            let fields: LogFields = [chosen, chosen].into_iter().collect();
            for field in LogField::ALL {
                assert_eq!(fields.has(field), field == chosen, "{field:?}");
            }
        }
    }
}
