//! Figures and tables for people.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

/// Which way a column leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lean {
    /// Words.
    Left,
    /// Figures.
    Right,
}

/// A table without lines, so that `awk` and `grep` can read it too.
pub(super) fn table(
    columns: &[(&str, Lean)],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|(name, _)| *name));
    table.add_rows(rows);
    let last = columns.len().saturating_sub(1);
    for (i, (_, lean)) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, if i == last { 0 } else { 2 }));
            if *lean == Lean::Right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.trim_fmt()
}

/// Names and values, one a line.
pub(super) fn pairs(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect()
}

/// A value that may not have been measured.
pub(super) fn maybe<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// A ratio as a percentage. 100 % is said only of all, and 0 % only of nothing.
pub(super) fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    let shown = (percent * 10.0).round() / 10.0;
    if shown >= 100.0 && ratio < 1.0 {
        ">99.9 %".to_owned()
    } else if shown <= 0.0 && ratio > 0.0 {
        "<0.1 %".to_owned()
    } else {
        format!("{shown} %")
    }
}

/// Milliseconds in three figures.
pub(super) fn ms(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1e3),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// A rate in three figures.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

/// Bytes in binary units.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A weight: whole ones without a point.
pub(super) fn weight(weight: f64) -> String {
    format!("{}", (weight * 100.0).round() / 100.0)
}

/// A time in whole seconds, as `3h 2m 1s`.
pub(super) fn duration(seconds: f64) -> String {
    // A negative or absurd figure from afar is no reason to fail.
    let whole = Duration::try_from_secs_f64(seconds.floor()).unwrap_or_default();
    humantime::format_duration(whole).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_true() {
        for (shown, expected) in [
            (percent(1.0), "100 %"),
            (percent(0.99999), ">99.9 %"),
            (percent(0.00001), "<0.1 %"),
            (percent(0.985), "98.5 %"),
            (percent(0.0), "0 %"),
            (ms(0.25), "250 µs"),
            (ms(6.875), "6.88 ms"),
            (ms(120.4), "120 ms"),
            (ms(30_000.0), "30.0 s"),
            (rate(1.665), "1.7"),
            (rate(12_345.6), "12346"),
            (bytes(1023), "1023 B"),
            (bytes(1536), "1.5 KiB"),
            (bytes(5 << 40), "5.0 TiB"),
            (weight(10.0), "10"),
            (weight(0.625), "0.63"),
            (duration(3723.9), "1h 2m 3s"),
            (duration(-1.0), "0s"),
            (maybe(None, percent), "-"),
        ] {
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn tables_line_up() {
        let rows = [["a", "1"], ["longer", "10"]];
        let text = table(
            &[("NAME", Lean::Left), ("COUNT", Lean::Right)],
            rows.map(|row| row.map(str::to_owned).to_vec()),
        );
        assert_eq!(text, "NAME    COUNT\na           1\nlonger     10");
        assert_eq!(
            pairs([("a", "1".into()), ("long", "2".into())]),
            "a     1\nlong  2\n"
        );
    }
}
