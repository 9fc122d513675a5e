//! What values in maps look like, told by the names of their fields.
//!
//! Maps outlive the daemon, and the next one may have been built with other structures. So each set of
//! maps has a description of its own pinned beside it, and who finds maps of another layout reads them
//! field by field: what is in both is copied, what only this side knows is zero. That works between any two
//! versions, older or newer, as long as a name means the same in both and zero means that nothing is
//! known. Where that would not be so [`crate::ABI`] grows.

use crate::{
    Address, COUNTER_COUNT, ClientHop, ClientKey, ClientPin, CookieKeys, Counter, Counters, Drops,
    FlowEntry, FlowKey, InstanceEntry, NextHop, Settings, Table, Traffic, Vip, VipKey,
};

/// A field of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, the same in all versions.
    pub name: &'static str,
    /// Bytes before it.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
    /// Whether it is a native integer, which may be wider or narrower elsewhere; all else is bytes.
    pub is_number: bool,
}

/// A value whose fields can be told.
pub trait Described {
    /// The name of the type; empty for a plain number, which needs no description.
    const NAME: &'static str;
    /// Its fields, all of them but padding.
    const FIELDS: &'static [Field];
}

/// What a field can be made of.
trait Part {
    const IS_NUMBER: bool;
}

impl<T, const N: usize> Part for [T; N] {
    const IS_NUMBER: bool = false;
}

impl Part for NextHop {
    const IS_NUMBER: bool = false;
}

macro_rules! numbers {
    ($($number:ident),+) => { $(
        impl Part for $number {
            const IS_NUMBER: bool = true;
        }

        impl Described for $number {
            const NAME: &'static str = "";
            const FIELDS: &'static [Field] = &[Field {
                name: "",
                offset: 0,
                size: size_of::<Self>(),
                is_number: true,
            }];
        }
    )+ };
}
numbers!(u8, u16, u32, u64);

const fn field<T, F: Part>(name: &'static str, offset: usize, _: fn(&T) -> &F) -> Field {
    Field {
        name,
        offset,
        size: size_of::<F>(),
        is_number: F::IS_NUMBER,
    }
}

/// Describes types by all of their fields, those of padding apart.
macro_rules! described {
    ($($type:ident { $($field:ident),+ $(; $($pad:ident),+)? })+) => { $(
        impl Described for $type {
            const NAME: &'static str = stringify!($type);
            const FIELDS: &'static [Field] = &[$(field(
                stringify!($field),
                core::mem::offset_of!($type, $field),
                |value: &$type| &value.$field,
            )),+];
        }

        // A field that was forgotten here would be lost on the way.
        const _: () = {
            let mut size = 0 $($(+ field("", 0, |value: &$type| &value.$pad).size)+)?;
            let mut at = 0;
            while at < $type::FIELDS.len() {
                size += $type::FIELDS[at].size;
                at += 1;
            }
            assert!(size == size_of::<$type>());
        };
    )+ };
}

described! {
    Settings {
        nat_source_v4, nat_source_v6, nat_port_first, nat_port_last, next_hop_ttl_ms, icmp_rate, gue_port,
        echo_rate, has_ranges; pad
    }
    InstanceEntry { address, identity, port, generation, weight, state; pad }
    VipKey { address, port, protocol, kind, last; pad }
    Vip { id, table, generation, forward, select, hash_of, flags, owned_forward; pad }
    FlowKey { source, destination, source_port, destination_port, protocol; pad, pad_end }
    FlowEntry {
        last_seen, source, destination, source_port, destination_port, instance, generation, state, vip,
        direction, forward
    }
    Traffic { packets_in, bytes_in, packets_out, bytes_out, connections, dropped }
    Table { slots, owners }
    ClientKey { client, service }
    ClientPin { until, instance, generation; pad }
    CookieKeys { keys, current, since, origin }
    NextHop { fresh_until, macs, interface, mtu_and_epoch, generation, flags }
    ClientHop { address, hop }
}

/// Counters by their labels: those that only one side knows are left out.
const COUNTERS: [Field; Counter::ALL.len()] = {
    let mut fields = [Field {
        name: "",
        offset: 0,
        size: size_of::<u64>(),
        is_number: true,
    }; Counter::ALL.len()];
    let mut at = 0;
    while at < fields.len() {
        let counter = Counter::ALL[at];
        assert!((counter as usize) < COUNTER_COUNT);
        fields[at].name = counter.label();
        fields[at].offset = counter as usize * size_of::<u64>();
        at += 1;
    }
    fields
};

impl Described for Counters {
    const NAME: &'static str = "Counters";
    const FIELDS: &'static [Field] = &COUNTERS;
}

/// Reasons why packets were lost by their labels, and behind them what is of no use.
const DROPS: [Field; COUNTERS.len()] = {
    let mut fields = COUNTERS;
    let (mut at, mut found) = (0, 0);
    while at < COUNTERS.len() {
        let counter = Counter::ALL[at];
        if counter.is_lost() {
            fields[found].name = counter.label();
            fields[found].offset = Drops::index(counter) * size_of::<u64>();
            found += 1;
        }
        at += 1;
    }
    fields
};

/// How many reasons there are.
const REASONS: usize = {
    let (mut at, mut found) = (0, 0);
    while at < Counter::ALL.len() {
        found += Counter::ALL[at].is_lost() as usize;
        at += 1;
    }
    found
};

impl Described for Drops {
    const NAME: &'static str = "Drops";
    const FIELDS: &'static [Field] = DROPS.split_at(REASONS).0;
}

/// Where a field is in a value of the former connection table, for the program that looks for connections
/// there. The bytes that the loader writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Bytes before it.
    pub at: u8,
    /// Its bytes; 0: it is not there, and reads as zero.
    pub size: u8,
}

/// The fields that the program reads or writes of a former table, in the order of their [`Place`]s: those of
/// its key, and after them those of its entries.
pub const FORMER_KEY: [&str; 5] = [
    "source",
    "destination",
    "source_port",
    "destination_port",
    "protocol",
];
/// See [`FORMER_KEY`].
pub const FORMER_ENTRY: [&str; 11] = [
    "last_seen",
    "source",
    "destination",
    "source_port",
    "destination_port",
    "instance",
    "generation",
    "state",
    "vip",
    "direction",
    "forward",
];
/// Places that the program asks for.
pub const FORMER_PLACES: usize = FORMER_KEY.len() + FORMER_ENTRY.len();
/// Where those fields are in this version's tables.
pub const OUR_PLACES: [Place; FORMER_PLACES] = {
    let mut places = [Place { at: 0, size: 0 }; FORMER_PLACES];
    let mut at = 0;
    while at < FORMER_PLACES {
        let field = match at.checked_sub(FORMER_KEY.len()) {
            Some(at) => FlowEntry::FIELDS[at],
            None => FlowKey::FIELDS[at],
        };
        places[at] = Place {
            at: field.offset as u8,
            size: field.size as u8,
        };
        at += 1;
    }
    places
};
/// Bytes that the key of a former table may have.
pub const MAX_FORMER_KEY: usize = 64;

const _: () = assert!(
    FORMER_KEY.len() == FlowKey::FIELDS.len()
        && FORMER_ENTRY.len() == FlowEntry::FIELDS.len()
        && size_of::<FlowKey>() <= MAX_FORMER_KEY
        && size_of::<Address>() == 16
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_where_they_are() {
        let find = |name| FlowEntry::FIELDS.iter().find(|field| field.name == name);
        assert_eq!(
            find("state"),
            Some(&Field {
                name: "state",
                offset: 48,
                size: 4,
                is_number: true
            })
        );
        assert!(find("destination").is_some_and(|field| !field.is_number && field.size == 16));
        let dropped = Counters::FIELDS
            .iter()
            .find(|field| field.name == "ttl_expired");
        assert!(dropped.is_some_and(|field| field.offset == Counter::DropTtl as usize * 8));
        let dropped = Drops::FIELDS
            .iter()
            .find(|field| field.name == "ttl_expired");
        assert!(dropped.is_some_and(|field| field.offset == Drops::index(Counter::DropTtl) * 8));
        assert!(
            Drops::FIELDS
                .iter()
                .all(|field| field.offset < size_of::<Drops>())
        );
    }

    #[test]
    fn the_program_asks_for_the_fields_that_there_are() {
        let names = |fields: &[Field]| fields.iter().map(|field| field.name).collect::<Vec<_>>();
        assert_eq!(names(FlowKey::FIELDS), FORMER_KEY);
        assert_eq!(names(FlowEntry::FIELDS), FORMER_ENTRY);
        assert_eq!(OUR_PLACES[0], Place { at: 0, size: 16 });
        assert_eq!(OUR_PLACES[FORMER_KEY.len() + 7], Place { at: 48, size: 4 });
    }
}
