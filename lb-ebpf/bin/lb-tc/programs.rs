//! The entry points of traffic control.

use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::entries::entries;

entries!(classifier, lb_tc, TcContext, i32);
