//! What the kernel's trie does, without a trie.

use lb_common::PrefixKey;

/// Whether an address, of which `key` has all bits, is in a prefix.
pub(super) fn holds(prefix: &PrefixKey, key: &PrefixKey) -> bool {
    let bits = |key: &PrefixKey| {
        let words = key.address.map(|word| u128::from(u32::from_be(word)));
        words.into_iter().fold(0, |bits, word| bits << 32 | word)
    };
    let mask = u128::MAX.checked_shl(128 - prefix.length).unwrap_or(0);
    (bits(prefix) ^ bits(key)) & mask == 0
}
