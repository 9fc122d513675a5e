//! Files, variables and flags in; configurations or faults out.

use super::*;

mod examples;
