//! Layouts of maps as text, and reading values of one layout as those of another.
//!
//! The text is JSON: for each type its size, and for each of its fields where it is and how many bytes it
//! has. What it says is checked before it is used, because whoever may write to the BPF file system may
//! have written it.

use std::{
    collections::{BTreeMap, BTreeSet},
    marker::PhantomData,
    slice,
};

use aya::Pod;
use lb_common::{
    ClientHop, ClientKey, ClientPin, CookieKeys, Counters, Drops, FlowEntry, FlowKey,
    InstanceEntry, NextHop, Settings, Table, Traffic, Vip, VipKey,
    layout::{Described, FORMER_ENTRY, FORMER_KEY, FORMER_PLACES, Field, MAX_FORMER_KEY},
};
use serde::{Deserialize, Serialize};

/// Why a layout cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LayoutError {
    /// It is no description.
    #[error("expected a description of maps as JSON, found other text: {0}")]
    Text(String),
    /// A type is not described.
    #[error("expected a description of {0}, found none")]
    Type(&'static str),
    /// A type has another size than the map.
    #[error("expected {described} bytes for {name}, as they are described, found {found}")]
    Size {
        name: &'static str,
        described: usize,
        found: usize,
    },
    /// A field is not where fields can be.
    #[error("expected {expected} for the field {name:?}, found {size} bytes after {at}")]
    Field {
        name: String,
        expected: &'static str,
        at: usize,
        size: usize,
    },
    /// A key has other parts.
    #[error("expected a key of {expected}, found one of {found}")]
    Key { expected: String, found: String },
}

/// Where the fields of a type are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    size: usize,
    /// Bytes before it, and its own.
    fields: BTreeMap<String, (usize, usize)>,
}

/// What the values of a set of maps look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Layouts(BTreeMap<String, Shape>);

impl Layouts {
    /// Those of this lb.
    pub(super) fn ours() -> Self {
        let mut all = Self(BTreeMap::new());
        all.add::<Settings>();
        all.add::<InstanceEntry>();
        all.add::<VipKey>();
        all.add::<Vip>();
        all.add::<FlowKey>();
        all.add::<FlowEntry>();
        all.add::<Counters>();
        all.add::<Drops>();
        all.add::<Traffic>();
        all.add::<Table>();
        all.add::<ClientKey>();
        all.add::<ClientPin>();
        all.add::<CookieKeys>();
        all.add::<NextHop>();
        all.add::<ClientHop>();
        all
    }

    fn add<T: Described>(&mut self) {
        let fields = T::FIELDS.iter();
        let fields = fields.map(|field| (field.name.to_owned(), (field.offset, field.size)));
        let shape = Shape {
            size: size_of::<T>(),
            fields: fields.collect(),
        };
        self.0.insert(T::NAME.to_owned(), shape);
    }

    pub(super) fn parse(text: &str) -> Result<Self, LayoutError> {
        serde_json::from_str(text).map_err(|error| LayoutError::Text(error.to_string()))
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// How values of `T` are read from values of a map that have `found` bytes.
    pub(super) fn values<T: Described + Pod>(&self, found: usize) -> Result<Plan<T>, LayoutError> {
        if T::NAME.is_empty() {
            // A plain number is as wide as the map's values.
            let own = Shape {
                size: found,
                fields: [(String::new(), (0, found))].into(),
            };
            return Plan::of(&own);
        }
        let shape = self.0.get(T::NAME).ok_or(LayoutError::Type(T::NAME))?;
        if shape.size != found {
            return Err(LayoutError::Size {
                name: T::NAME,
                described: shape.size,
                found,
            });
        }
        Plan::of(shape)
    }

    /// The same for keys, which must be of the same parts: what is not known of a key cannot be made up.
    pub(super) fn keys<T: Described + Pod>(&self, found: usize) -> Result<Plan<T>, LayoutError> {
        if let Some(shape) = self.0.get(T::NAME) {
            let theirs: BTreeSet<&str> = shape.fields.keys().map(String::as_str).collect();
            let ours: BTreeSet<&str> = T::FIELDS.iter().map(|field| field.name).collect();
            if theirs != ours {
                let list = |names: BTreeSet<&str>| Vec::from_iter(names).join(", ");
                return Err(LayoutError::Key {
                    expected: list(ours),
                    found: list(theirs),
                });
            }
        }
        self.values(found)
    }

    /// The bytes that tell the program where the fields of a connection table are.
    pub(super) fn places(&self) -> Result<[u8; 2 * FORMER_PLACES], LayoutError> {
        let shape = |name| self.0.get(name).ok_or(LayoutError::Type(name));
        let (key, entry) = (shape(FlowKey::NAME)?, shape(FlowEntry::NAME)?);
        if key.size > MAX_FORMER_KEY {
            return Err(LayoutError::Size {
                name: FlowKey::NAME,
                described: MAX_FORMER_KEY,
                found: key.size,
            });
        }
        // The plans have checked that what is there is in the value, and aligned.
        self.keys::<FlowKey>(key.size)?;
        self.values::<FlowEntry>(entry.size)?;
        let names = FORMER_KEY.iter().map(|name| (key, name));
        let names = names.chain(FORMER_ENTRY.iter().map(|name| (entry, name)));
        let mut places = [0; 2 * FORMER_PLACES];
        for (place, (shape, name)) in places.as_chunks_mut::<2>().0.iter_mut().zip(names) {
            if let Some((at, size)) = shape.fields.get(*name) {
                *place = [
                    u8::try_from(*at).map_err(|_| far(name, *at, *size))?,
                    u8::try_from(*size).map_err(|_| far(name, *at, *size))?,
                ];
            }
        }
        Ok(places)
    }
}

fn far(name: &str, at: usize, size: usize) -> LayoutError {
    LayoutError::Field {
        name: name.to_owned(),
        expected: "a place in the first 255 bytes",
        at,
        size,
    }
}

/// A part of a value that is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copied {
    /// Bytes before it there, and its own.
    theirs: (usize, usize),
    /// The same here.
    ours: (usize, usize),
}

/// How a `T` is read from bytes of another layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan<T> {
    size: usize,
    parts: Vec<Copied>,
    of: PhantomData<T>,
}

impl<T: Described + Pod> Plan<T> {
    fn of(shape: &Shape) -> Result<Self, LayoutError> {
        let mut parts = Vec::new();
        for field in T::FIELDS {
            if let Some(theirs) = shape.fields.get(field.name) {
                check(field, *theirs, shape.size)?;
                parts.push(Copied {
                    theirs: *theirs,
                    ours: (field.offset, field.size),
                });
            }
        }
        let is_ours = shape.size == size_of::<T>()
            && parts.len() == T::FIELDS.len()
            && parts.iter().all(|part| part.theirs == part.ours);
        if is_ours {
            // At once, as nearly always.
            let all = (0, shape.size);
            parts = vec![Copied {
                theirs: all,
                ours: all,
            }];
        }
        Ok(Self {
            size: shape.size,
            parts,
            of: PhantomData,
        })
    }

    /// Bytes that a value has there.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// The value in `bytes`, with what is not told there left as it is in `value`; whether it could be read,
    /// that is, no number is too large for this side.
    pub(super) fn read_into(&self, bytes: &[u8], value: &mut T) -> bool {
        let ours = bytes_mut(value);
        self.parts
            .iter()
            .all(|part| copy(bytes, part.theirs, ours, part.ours))
    }

    /// The value in `bytes`, if it can be read.
    pub(super) fn read(&self, bytes: &[u8]) -> Option<T>
    where
        T: Default,
    {
        let mut value = T::default();
        self.read_into(bytes, &mut value).then_some(value)
    }

    /// The bytes of `value` there, if it can be told.
    pub(super) fn write(&self, mut value: T) -> Option<Vec<u8>> {
        let mut theirs = vec![0; self.size];
        let ours = bytes_mut(&mut value);
        let mut parts = self.parts.iter();
        let is_whole = parts.all(|part| copy(ours, part.ours, &mut theirs, part.theirs));
        is_whole.then_some(theirs)
    }
}

/// Whether a field that is there so can be read as `field`.
fn check(field: &Field, (at, size): (usize, usize), whole: usize) -> Result<(), LayoutError> {
    let refused = |expected| LayoutError::Field {
        name: field.name.to_owned(),
        expected,
        at,
        size,
    };
    if at.checked_add(size).is_none_or(|end| end > whole) {
        return Err(refused("a place in the value"));
    }
    if field.is_number {
        let is_number = matches!(size, 1 | 2 | 4 | 8) && at.is_multiple_of(size);
        return is_number
            .then_some(())
            .ok_or_else(|| refused("1, 2, 4 or 8 aligned bytes"));
    }
    let unit = if size >= 8 { 8 } else { size.max(1) };
    if size != field.size {
        return Err(refused("as many bytes as this lb has"));
    }
    if !at.is_multiple_of(unit) && size <= 16 {
        return Err(refused("aligned bytes"));
    }
    Ok(())
}

/// Copies bytes, or a number of another width; whether there was room for it.
fn copy(
    from: &[u8],
    (from_at, from_size): (usize, usize),
    to: &mut [u8],
    (to_at, to_size): (usize, usize),
) -> bool {
    let source = from.get(from_at..from_at + from_size);
    let target = to.get_mut(to_at..to_at + to_size);
    let (Some(source), Some(target)) = (source, target) else {
        return false;
    };
    if from_size == to_size {
        target.copy_from_slice(source);
        return true;
    }
    let number = match *source {
        [a] => u64::from(a),
        [a, b] => u16::from_ne_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => return false,
    };
    write_number(number, target).is_some()
}

/// Writes a number in as many bytes as there are, if it fits.
fn write_number(number: u64, target: &mut [u8]) -> Option<()> {
    match target.len() {
        1 => target.copy_from_slice(&u8::try_from(number).ok()?.to_ne_bytes()),
        2 => target.copy_from_slice(&u16::try_from(number).ok()?.to_ne_bytes()),
        4 => target.copy_from_slice(&u32::try_from(number).ok()?.to_ne_bytes()),
        8 => target.copy_from_slice(&number.to_ne_bytes()),
        _ => return None,
    }
    Some(())
}

/// The bytes of a value, which any bytes may be.
fn bytes_mut<T: Pod>(value: &mut T) -> &mut [u8] {
    // SAFETY: a `Pod` is made of bytes that are all initialised, and any bytes make one.
    unsafe { slice::from_raw_parts_mut((&raw mut *value).cast(), size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use lb_common::from_v4;
    use proptest::prelude::*;

    use super::*;

    fn entry() -> FlowEntry {
        FlowEntry {
            last_seen: 0x0102_0304_0506_0708,
            source: from_v4([10, 0, 0, 1]),
            destination: from_v4([10, 0, 0, 2]),
            source_port: [1, 2],
            destination_port: [3, 4],
            instance: 7,
            generation: 300,
            state: 0x0007_0010,
            vip: 500,
            direction: 2,
            forward: 9,
        }
    }

    /// Our layouts with one type's replaced.
    fn with(name: &str, size: usize, fields: &[(&str, usize, usize)]) -> Layouts {
        let mut layouts = Layouts::ours();
        let fields = fields.iter();
        let fields = fields.map(|(name, at, size)| ((*name).to_owned(), (*at, *size)));
        let fields = fields.collect();
        layouts.0.insert(name.to_owned(), Shape { size, fields });
        layouts
    }

    /// Fields of a flow's entry in another order, numbers of other widths, one that nobody here knows.
    const OTHER: [(&str, usize, usize); 11] = [
        ("destination", 0, 16),
        ("source", 16, 16),
        ("instance", 32, 4),
        ("generation", 36, 4),
        ("forward", 40, 2),
        ("direction", 42, 1),
        ("destination_port", 44, 2),
        ("colour", 46, 2),
        ("last_seen", 48, 8),
        ("state", 56, 8),
        ("source_port", 64, 2),
    ];

    #[test]
    fn ours_are_read_as_they_are_and_survive_as_text() {
        let ours = Layouts::ours();
        let text = ours.text();
        assert_eq!(Layouts::parse(&text), Ok(ours.clone()));
        let plan = ours.values::<FlowEntry>(56).unwrap();
        assert_eq!(plan.parts.len(), 1);
        let bytes = plan.write(entry()).unwrap();
        assert_eq!(plan.read(&bytes), Some(entry()));
        assert_eq!(plan.read(&bytes[1..]), None);
    }

    #[test]
    fn other_places_and_widths_are_translated_and_what_is_missing_is_zero() {
        let layouts = with("FlowEntry", 72, &OTHER);
        let plan = layouts.values::<FlowEntry>(72).unwrap();
        let bytes = plan.write(entry()).unwrap();
        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[32..36], 7_u32.to_ne_bytes());
        assert_eq!(bytes[56..64], 0x0007_0010_u64.to_ne_bytes());
        let without_vip = FlowEntry { vip: 0, ..entry() };
        assert_eq!(plan.read(&bytes), Some(without_vip));
        // No instance has a number like that here.
        let mut large = bytes;
        large[34] = 1;
        assert_eq!(plan.read(&large), None);
    }

    #[test]
    fn the_program_is_told_where_fields_are() {
        let ours = Layouts::ours().places().unwrap();
        assert_eq!(ours[..4], [0, 16, 16, 16]);
        let at = 2 * FORMER_KEY.len();
        assert_eq!(ours[at..at + 4], [0, 8, 8, 16]);
        let other = with("FlowEntry", 72, &OTHER).places().unwrap();
        assert_eq!(other[at..at + 6], [48, 8, 16, 16, 0, 16]);
        let vip = 2 * (FORMER_KEY.len() + 8);
        assert_eq!(other[vip..vip + 2], [0, 0]);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let refused = |layouts: &Layouts| layouts.places().unwrap_err().to_string();
        let key = |fields: &[(&str, usize, usize)]| with("FlowKey", 40, fields);
        let small = [("source", 0, 4), ("destination", 4, 4)];
        assert_eq!(
            refused(&key(&small)),
            "expected a key of destination, destination_port, protocol, source, source_port, \
             found one of destination, source"
        );
        let entry = |field| with("FlowEntry", 64, &[field]);
        for (field, expected) in [
            (("state", 62, 4), "a place in the value"),
            (("state", usize::MAX, 4), "a place in the value"),
            (("state", 2, 4), "1, 2, 4 or 8 aligned bytes"),
            (("state", 0, 3), "1, 2, 4 or 8 aligned bytes"),
            (("source", 0, 4), "as many bytes as this lb has"),
            (("source", 4, 16), "aligned bytes"),
        ] {
            let error = refused(&entry(field));
            assert!(error.contains(expected), "{field:?}: {error}");
        }
        let size = Layouts::ours().values::<Vip>(24).unwrap_err();
        assert!(
            size.to_string().contains("expected 20 bytes for Vip"),
            "{size}"
        );
        assert!(Layouts::parse("[]").is_err());
        let nothing = Layouts::parse("{}").unwrap();
        assert_eq!(nothing.places(), Err(LayoutError::Type("FlowKey")));
    }

    #[test]
    fn plain_numbers_need_no_description() {
        let nothing = Layouts::parse("{}").unwrap();
        let plan = nothing.values::<u64>(4).unwrap();
        assert_eq!(plan.read(&7_u32.to_ne_bytes()), Some(7));
        assert!(nothing.values::<u64>(5).is_err());
    }

    #[test]
    fn counters_go_by_their_labels() {
        let fields = [
            ("received", 8, 8),
            ("transmitted", 0, 8),
            ("unheard_of", 16, 8),
        ];
        let plan = with("Counters", 24, &fields)
            .values::<Counters>(24)
            .unwrap();
        let mut bytes = [0; 24];
        bytes[0] = 3;
        bytes[8] = 5;
        bytes[16] = 9;
        let read = plan.read(&bytes).unwrap();
        assert_eq!(read.get(lb_common::Counter::Transmitted), 3);
        assert_eq!(read.get(lb_common::Counter::Received), 5);
        assert_eq!(read.values.iter().sum::<u64>(), 8);
    }

    proptest! {
        /// Whatever a description says, it is refused or read, and both without a panic.
        #[test]
        fn any_description_is_refused_or_read(
            size in 0_usize..300,
            fields in prop::collection::btree_map(
                prop::sample::select(FORMER_ENTRY.to_vec()),
                (0_usize..300, 0_usize..20),
                0..11,
            ),
            bytes in prop::collection::vec(any::<u8>(), 300),
        ) {
            let fields: Vec<_> = fields.into_iter().map(|(name, (at, size))| (name, at, size)).collect();
            let layouts = with("FlowEntry", size, &fields);
            let _ = layouts.places();
            if let Ok(plan) = layouts.values::<FlowEntry>(size)
                && let Some(entry) = plan.read(&bytes[..size])
            {
                prop_assert!(plan.write(entry).is_some_and(|bytes| bytes.len() == size));
            }
        }
    }
}
