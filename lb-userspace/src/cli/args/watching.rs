//! What is followed and explained.

use std::path::PathBuf;

use clap::Args;

/// A request or a packet to ask about.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Explain {
    /// Of a request a path, or a URL for the sake of its host; of a packet ADDRESS:PORT that it is
    /// from
    #[arg(value_name = "URL|SOURCE")]
    pub(in crate::cli) target: String,
    /// Of a packet [udp/]ADDRESS:PORT that it is for
    pub(in crate::cli) destination: Option<String>,
    /// Method of a request; GET when nothing is said
    #[arg(
        short = 'X',
        long,
        value_name = "METHOD",
        conflicts_with = "destination"
    )]
    pub(in crate::cli) method: Option<String>,
    /// A header field of a request, as often as needed
    #[arg(
        short = 'H',
        long = "header",
        value_name = "NAME: VALUE",
        conflicts_with = "destination"
    )]
    pub(in crate::cli) headers: Vec<String>,
    /// Address of the client of a request, with a port or without; the one that asks when nothing is
    /// said
    #[arg(long, value_name = "ADDRESS", conflicts_with = "destination")]
    pub(in crate::cli) client: Option<String>,
    /// Address and port that the client of a request has connected to; when nothing is said, routes that
    /// have a destination are left out
    #[arg(
        long = "destination",
        value_name = "ADDRESS:PORT",
        conflicts_with = "destination"
    )]
    pub(in crate::cli) connected_to: Option<String>,
    /// TCP flags of a packet with commas between them: syn, ack, fin, rst; syn when nothing is said,
    /// which begins a connection
    #[arg(long, requires = "destination")]
    pub(in crate::cli) flags: Option<String>,
    /// Interface that a packet comes in by; the first of the configuration when nothing is said
    #[arg(long, value_name = "NAME", requires = "destination")]
    pub(in crate::cli) interface: Option<String>,
}

/// Which events to follow.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Events {
    /// Only those of this service; may be repeated
    #[arg(long = "service", value_name = "SERVICE")]
    pub(in crate::cli) services: Vec<String>,
    /// Only those of this type, such as health_changed; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    pub(in crate::cli) types: Vec<String>,
    /// Also what has happened since the event with this number, as far as lb still knows it
    #[arg(long, value_name = "NUMBER")]
    pub(in crate::cli) after: Option<u64>,
}

/// Which packets to follow.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = FLOWS_EXAMPLES)]
pub(in crate::cli) struct Flows {
    /// Only packets that are forwarded, dropped, or passed to the host; may be repeated. Forwarded and
    /// dropped ones when nothing is said
    #[arg(long = "verdict", value_name = "VERDICT")]
    pub(in crate::cli) verdicts: Vec<String>,
    /// Only packets that are counted under this counter, such as no_instance; may be repeated
    #[arg(long = "reason", value_name = "COUNTER")]
    pub(in crate::cli) reasons: Vec<String>,
    /// Only packets of this VIP, such as tcp/192.0.2.10:80; may be repeated
    #[arg(long = "vip", value_name = "VIP")]
    pub(in crate::cli) vips: Vec<String>,
    /// Only packets of the VIPs of this service; may be repeated
    #[arg(long = "service", value_name = "SERVICE")]
    pub(in crate::cli) services: Vec<String>,
    /// Only packets from this address or range
    #[arg(long, value_name = "PREFIX")]
    pub(in crate::cli) source: Option<String>,
    /// Of packets that are forwarded those alone that begin a connection
    #[arg(long)]
    pub(in crate::cli) new: bool,
    /// Only one in so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) sample: Option<u32>,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(in crate::cli) seconds: Option<u64>,
    /// With --json, also the first 192 bytes of each packet; needs the role operate
    #[arg(long)]
    pub(in crate::cli) bytes: bool,
    /// Write a capture (pcapng) with the verdicts instead of lines, - for standard output; needs the role
    /// operate
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) write: Option<PathBuf>,
}

const FLOWS_EXAMPLES: &str = "\
Examples:
  lb flows --new --service web                 who connects, and where to
  lb flows --verdict dropped                   what is dropped, and why
  lb flows --sample 1000 --json | jq .instance
  lb flows --source 198.51.100.7 --write client.pcapng
  lb flows --write - | tcpdump -nr -";
