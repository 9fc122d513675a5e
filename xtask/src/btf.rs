//! Type information that the kernel takes.
//!
//! The kernel wants the names of types to be names in C. bpf-linker sees to that for structures, but
//! not for unions, such as `MaybeUninit<u8>` of Rust's library. Where one name is not right the kernel
//! takes no type information at all, and then no map either whose type is described there. So what is
//! not allowed in a name becomes an underscore: in place, where names keep their length and everything
//! that points to them stays right.

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _};

/// The section that holds type information.
const SECTION: &str = ".BTF";

/// `BTF_MAGIC` and the length of `struct btf_header`, `linux/btf.h`.
const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;

/// Kinds of types whose name must be one in C: structures, unions, enumerations and what is only
/// declared.
const NAMED: [u32; 5] = [4, 5, 6, 7, 19];

/// Makes the names of all types in an object ones that the kernel takes.
///
/// # Errors
/// When the object or its type information is not what it says.
pub(crate) fn mend_names(file: &mut [u8]) -> Result<()> {
    let object = object::File::parse(&*file).context("no object file")?;
    let section = object.section_by_name(SECTION);
    let Some((start, length)) = section.and_then(|section| section.file_range()) else {
        return Ok(());
    };
    let information = (start as usize)
        .checked_add(length as usize)
        .and_then(|end| file.get_mut(start as usize..end));
    mend(information.context("the type information ends outside the object file")?)
}

fn mend(information: &mut [u8]) -> Result<()> {
    let magic = information.first_chunk().copied().map(u16::from_le_bytes);
    ensure!(
        magic == Some(MAGIC),
        "expected type information that begins with {MAGIC:#x}, found {magic:x?}"
    );
    let at = |place: usize| word(information, place).map(|value| value as usize);
    let header = at(4)?;
    ensure!(
        header >= HEADER,
        "expected a header of {HEADER} bytes or more, found {header}"
    );
    let (types, strings) = (header + at(8)?, header + at(16)?);
    let end = types + at(12)?;
    let mut place = types;
    let mut names = Vec::new();
    while place < end {
        let (name, info) = (word(information, place)?, word(information, place + 4)?);
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        if NAMED.contains(&kind) {
            names.push(strings + name as usize);
        }
        place += 12 + trailing(kind, members)?;
    }
    for name in names {
        let bytes = information
            .get_mut(name..)
            .context("a name lies outside the strings")?;
        let is_named = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
        for byte in bytes.iter_mut().take_while(|byte| **byte != 0) {
            if !is_named(*byte) {
                *byte = b'_';
            }
        }
    }
    Ok(())
}

/// Bytes after the three words that each type begins with.
fn trailing(kind: u32, members: usize) -> Result<usize> {
    Ok(match kind {
        // An integer's encoding, a variable's linkage, the component of a tag.
        1 | 14 | 17 => 4,
        // Pointers, what is only declared, other names, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // An array's elements and length.
        3 => 12,
        // Members; variables of a section; wide values.
        4 | 5 | 15 | 19 => 12 * members,
        // Values; parameters.
        6 | 13 => 8 * members,
        other => anyhow::bail!("expected type information of kinds 1 to 19, found {other}"),
    })
}

fn word(bytes: &[u8], place: usize) -> Result<u32> {
    let found = bytes.get(place..).and_then(<[u8]>::first_chunk);
    let found = found.with_context(|| format!("type information ends before byte {place}"))?;
    Ok(u32::from_le_bytes(*found))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type information of these words for types, and strings.
    fn information(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let length = 4 * types.len() as u32;
        let header = [24, 0, length, length, strings.len() as u32];
        let words = header
            .iter()
            .chain(types)
            .flat_map(|word| word.to_le_bytes());
        let start = [0x9f, 0xeb, 1, 0].into_iter();
        start.chain(words).chain(strings.iter().copied()).collect()
    }

    #[test]
    fn only_names_of_types_are_mended() {
        let strings = b"\0u8\0Uninit<u8>\0a < b\0";
        // An integer with its encoding, and a union of one member of it whose name is a line of code.
        let types = [
            [1, 1 << 24, 1, 8].as_slice(),
            &[4, 5 << 24 | 1, 1],
            &[15, 1, 0],
        ]
        .concat();
        let mut made = information(&types, strings);
        mend(&mut made).unwrap();
        assert_eq!(made, information(&types, b"\0u8\0Uninit_u8_\0a < b\0"));
    }

    #[test]
    fn what_is_no_type_information_is_an_error() {
        assert!(mend(&mut []).is_err());
        assert!(mend(&mut [0x9f, 0xeb, 1, 0, 24]).is_err());
        let unknown = information(&[1, 30 << 24, 1], b"\0a\0");
        let error = mend(&mut unknown.clone()).unwrap_err().to_string();
        assert!(error.contains("found 30"), "{error}");
        let outside = information(&[99, 5 << 24, 1], b"\0a\0");
        assert!(mend(&mut outside.clone()).is_err());
        let cut = &mut information(&[1, 5 << 24, 1], b"\0a\0")[..30].to_vec();
        assert!(mend(cut).is_err());
    }
}
