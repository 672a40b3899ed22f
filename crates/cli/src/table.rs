//! Plain text tables, and numbers as people read them.

use comfy_table::{CellAlignment, Table, presets};

/// A column: its heading and the side that its cells lie on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// Rows of text under `columns`, one line each, indented by one blank.
pub(crate) fn render(columns: &[Column], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|column| match column {
        Column::Left(heading) | Column::Right(heading) => *heading,
    }));
    table.add_rows(rows);
    for (index, column) in columns.iter().enumerate() {
        if let (Column::Right(_), Some(cells)) = (column, table.column_mut(index)) {
            cells.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Bytes in decimal units: `285.2 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A number that may be missing, printed as `-` then.
pub(crate) fn optional<T>(value: Option<T>, print: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".into(), print)
}

/// `1 expert`, `2 experts`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_line_up_without_trailing_blanks() {
        let columns = [Column::Right("n"), Column::Left("name")];
        let rows = vec![vec!["1".into(), "a".into()], vec!["100".into(), "long name".into()]];
        assert_eq!(render(&columns, rows), "   n  name\n   1  a\n 100  long name\n");
    }

    #[test]
    fn bytes_choose_their_unit() {
        let texts = [999, 1_500, 285_212_672, 3_000_000_000].map(bytes);
        assert_eq!(texts, ["999 B", "1.5 kB", "285.2 MB", "3.0 GB"]);
    }
}
