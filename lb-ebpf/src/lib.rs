//! Pure packet decisions.
#![cfg_attr(not(test), no_std)]
