//! Maps as another version of lb might have left them: the same values in other structures, with fields in
//! another order, numbers of other widths, and some that nobody here knows.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{
    Array, HashMap, IterableMap as _, Map, MapData, MapError, PerCpuArray, PerCpuValues,
};
use lb_common::layout::{Described, FORMER_ENTRY, FORMER_KEY, Field};
use lb_common::{
    Counter, Counters, FlowEntry, FlowKey, InstanceEntry, MAX_INSTANCES, Vip, VipKey, names,
};
use serde_json::{Value, json};

/// Bytes of the key of a connection table of the other version.
pub const KEY: usize = 48;
/// Bytes of its entries.
pub const ENTRY: usize = 88;
/// A connection table of the other version.
pub type Table = HashMap<MapData, [u8; KEY], [u8; ENTRY]>;

/// `BPF_F_NO_PREALLOC` of `linux/bpf.h`.
const NO_PREALLOC: u32 = 1;
/// Bytes of the description of maps.
const LAYOUT: usize = 8192;

/// A field there: its name, the bytes before it, its own.
type Part = (&'static str, usize, usize);

const FLOW_KEY: [Part; 6] = [
    ("protocol", 0, 4),
    ("destination_port", 4, 2),
    ("source_port", 6, 2),
    ("destination", 8, 16),
    ("source", 24, 16),
    ("pad", 40, 8),
];
const FLOW_ENTRY: [Part; 12] = [
    ("destination", 0, 16),
    ("colour", 16, 8),
    ("source", 24, 16),
    ("instance", 40, 4),
    ("generation", 44, 4),
    ("forward", 48, 2),
    ("direction", 50, 1),
    ("destination_port", 52, 2),
    ("source_port", 54, 2),
    ("last_seen", 56, 8),
    ("state", 64, 8),
    ("vip", 72, 8),
];
const INSTANCE: [Part; 7] = [
    ("state", 0, 4),
    ("weight", 4, 4),
    ("generation", 8, 8),
    ("port", 16, 2),
    ("address", 24, 16),
    ("identity", 40, 8),
    ("mood", 48, 8),
];
const VIP_KEY: [Part; 5] = [
    ("kind", 0, 1),
    ("protocol", 1, 1),
    ("port", 2, 2),
    ("last", 4, 2),
    ("address", 8, 16),
];
const VIP: [Part; 7] = [
    ("flags", 0, 2),
    ("hash_of", 2, 1),
    ("select", 3, 1),
    ("forward", 4, 1),
    ("generation", 8, 4),
    ("table", 12, 4),
    ("id", 16, 8),
];

/// Our bytes as the other version has them.
fn other<const N: usize>(fields: &[Field], parts: &[Part], ours: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    for (name, at, size) in parts {
        let part = &mut bytes[*at..at + size];
        match fields.iter().find(|field| field.name == *name) {
            Some(field) => {
                // Native numbers begin with their lowest byte on the machines that lb is built for.
                let size = field.size.min(*size);
                part[..size].copy_from_slice(&ours[field.offset..field.offset + size]);
            }
            // What only they know.
            None if *name != "pad" => part.fill(0xee),
            None => {}
        }
    }
    bytes
}

/// Where the other version has the fields of its connection table, as the program is told.
#[must_use]
pub fn places() -> Vec<u8> {
    let place = |parts: &[Part], name: &str| {
        let part = parts.iter().find(|part| part.0 == name);
        part.map_or([0, 0], |(_, at, size)| [*at as u8, *size as u8])
    };
    let key = FORMER_KEY.iter().flat_map(|name| place(&FLOW_KEY, name));
    let entry = FORMER_ENTRY.iter();
    let entry = entry.flat_map(|name| place(&FLOW_ENTRY, name));
    key.chain(entry).collect()
}

/// A pinned map of ours, of keys and values of so many bytes.
fn hash<const K: usize, const V: usize>(pin: &Path) -> Result<HashMap<MapData, [u8; K], [u8; V]>> {
    Ok(Map::from_map_data(MapData::from_pin(pin)?)?.try_into()?)
}

/// Makes a connection table of the other version with what is in ours, which is pinned at `ours`; pins it
/// at `pin`.
///
/// # Errors
/// When the kernel refuses.
pub fn connections(ours: &Path, pin: &Path) -> Result<Table> {
    let entries = hash::<40, 56>(ours)?;
    let mut table = Table::create(65_536, NO_PREALLOC)?;
    for entry in &entries {
        let (key, entry) = entry?;
        let key = other(FlowKey::FIELDS, &FLOW_KEY, &key);
        table.insert(key, other(FlowEntry::FIELDS, &FLOW_ENTRY, &entry), 0)?;
    }
    table.map().pin(pin)?;
    Ok(table)
}

/// Moves a pinned set of maps of ours to the folder `other`, as if the program that works on them were of the
/// other version. Its program goes on with ours, which is pinned nowhere then.
///
/// # Errors
/// When the kernel refuses.
pub fn set(ours: &Path, other: &Path) -> Result<()> {
    fs::create_dir(other)?;
    connections(
        &ours.join(names::MAP_CONNECTIONS),
        &other.join(names::MAP_CONNECTIONS),
    )?;
    instances(ours, other)?;
    vips(ours, other)?;
    counters(ours, other)?;
    live(ours, other)?;
    describe(ours, other)?;
    for pin in fs::read_dir(ours)? {
        let pin = pin?;
        let to = other.join(pin.file_name());
        if to.exists() {
            fs::remove_file(pin.path())?;
        } else {
            fs::rename(pin.path(), to)?;
        }
    }
    fs::remove_dir(ours).with_context(|| format!("cannot remove {}", ours.display()))
}

fn array<const V: usize>(pin: &Path) -> Result<Array<MapData, [u8; V]>> {
    Ok(Map::from_map_data(MapData::from_pin(pin)?)?.try_into()?)
}

fn instances(ours: &Path, folder: &Path) -> Result<()> {
    let from = array::<32>(&ours.join(names::MAP_INSTANCES))?;
    let mut to = Array::<MapData, [u8; 56]>::create(MAX_INSTANCES * 2, 0)?;
    for (index, entry) in (0..).zip(from.iter()) {
        let entry = entry?;
        if entry != [0; 32] {
            to.set(index, other(InstanceEntry::FIELDS, &INSTANCE, &entry), 0)?;
        }
    }
    Ok(to.map().pin(folder.join(names::MAP_INSTANCES))?)
}

fn vips(ours: &Path, folder: &Path) -> Result<()> {
    let from = hash::<24, { size_of::<Vip>() }>(&ours.join(names::MAP_VIPS))?;
    let mut to = HashMap::<MapData, [u8; 24], [u8; 24]>::create(64, NO_PREALLOC)?;
    for entry in &from {
        let (key, vip) = entry?;
        let key = other(VipKey::FIELDS, &VIP_KEY, &key);
        to.insert(key, other(Vip::FIELDS, &VIP, &vip), 0)?;
    }
    Ok(to.map().pin(folder.join(names::MAP_VIPS))?)
}

/// Counters in the opposite order, with one that is new.
fn counter_parts() -> Vec<Part> {
    let labels = Counter::ALL.iter().rev().map(|counter| counter.label());
    let labels = labels.chain(["unheard_of"]);
    (0..)
        .zip(labels)
        .map(|(at, label)| (label, at * 8, 8))
        .collect()
}

fn counters(ours: &Path, folder: &Path) -> Result<()> {
    let map = Map::from_map_data(MapData::from_pin(ours.join(names::MAP_COUNTERS))?)?;
    let from: PerCpuArray<MapData, [u8; 512]> = map.try_into()?;
    let mut to = PerCpuArray::<MapData, [u8; 512]>::create(1, 0)?;
    let parts = counter_parts();
    let values = from.get(&0, 0)?;
    let values = values.iter();
    let values = values.map(|value| other(Counters::FIELDS, &parts, value));
    let values = PerCpuValues::try_from(values.collect::<Vec<_>>()).map_err(MapError::from)?;
    to.set(0, values, 0)?;
    Ok(to.map().pin(folder.join(names::MAP_COUNTERS))?)
}

/// Counts of live connections, in half the bytes.
fn live(ours: &Path, folder: &Path) -> Result<()> {
    let map = Map::from_map_data(MapData::from_pin(ours.join(names::MAP_LIVE))?)?;
    let from: Array<MapData, u64> = map.try_into()?;
    let mut to = Array::<MapData, u32>::create(MAX_INSTANCES, 0)?;
    for (index, live) in (0..).zip(from.iter()) {
        to.set(index, u32::try_from(live?)?, 0)?;
    }
    Ok(to.map().pin(folder.join(names::MAP_LIVE))?)
}

/// The description of a pinned set of maps.
///
/// # Errors
/// When it has none that can be read.
pub fn text(set: &Path) -> Result<String> {
    let from = array::<LAYOUT>(&set.join(names::MAP_LAYOUT))?;
    let text = String::from_utf8(from.get(&0, 0)?.to_vec())?;
    Ok(text.trim_end_matches('\0').to_owned())
}

fn describe(ours: &Path, folder: &Path) -> Result<()> {
    let mut layouts: Value = serde_json::from_str(&text(ours)?)?;
    let counters = counter_parts();
    for (name, size, parts) in [
        ("FlowKey", KEY, &FLOW_KEY[..5]),
        ("FlowEntry", ENTRY, &FLOW_ENTRY),
        ("InstanceEntry", 56, &INSTANCE),
        ("VipKey", 24, &VIP_KEY),
        ("Vip", 24, &VIP),
        ("Counters", 512, &counters),
    ] {
        let fields = parts.iter();
        let fields = fields.map(|(name, at, size)| ((*name).to_owned(), json!([at, size])));
        layouts[name] = json!({ "size": size, "fields": Value::Object(fields.collect()) });
    }
    write(&folder.join(names::MAP_LAYOUT), &layouts.to_string())
}

/// Pins a description of maps that says `text`.
///
/// # Errors
/// When the kernel refuses, or the text is too long.
pub fn write(pin: &Path, text: &str) -> Result<()> {
    let mut bytes = [0; LAYOUT];
    let room = bytes.get_mut(..text.len()).context("too long a text")?;
    room.copy_from_slice(text.as_bytes());
    if pin.exists() {
        fs::remove_file(pin)?;
    }
    let mut to = Array::<MapData, [u8; LAYOUT]>::create(1, 0)?;
    to.set(0, bytes, 0)?;
    Ok(to.map().pin(pin)?)
}
