//! The page's sections: what is said, and which charts and tables show it.

pub(crate) mod bench;
pub(crate) mod comparisons;
pub(crate) mod decisions;
pub(crate) mod history;
pub(crate) mod machine;
pub(crate) mod matrix;

use crate::chart::Chart;

/// A section.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    /// What links name it by.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// How to read it.
    pub(crate) intro: &'static str,
    pub(crate) blocks: Vec<Block>,
}

/// A part of a section.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    pub(crate) heading: String,
    pub(crate) note: String,
    pub(crate) charts: Vec<Chart>,
    pub(crate) tables: Vec<Table>,
    /// Whether its charts are folded away at first.
    pub(crate) is_folded: bool,
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// What it shows.
    pub(crate) caption: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<String>>,
    /// Whether it is folded away at first.
    pub(crate) is_folded: bool,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl Column {
    pub(crate) const fn heading(&self) -> &'static str {
        match self {
            Self::Left(heading) | Self::Right(heading) => heading,
        }
    }

    /// The class of its cells.
    pub(crate) const fn class(&self) -> &'static str {
        match self {
            Self::Left(_) => "words",
            Self::Right(_) => "number",
        }
    }
}

impl Table {
    pub(crate) fn has_headings(&self) -> bool {
        self.columns.iter().any(|column| !column.heading().is_empty())
    }

    /// Its rows, every cell with the class of its column.
    pub(crate) fn cells(&self) -> impl Iterator<Item = Vec<(&'static str, &str)>> {
        self.rows.iter().map(|row| {
            let cells = self.columns.iter().zip(row);
            cells.map(|(column, cell)| (column.class(), cell.as_str())).collect()
        })
    }
}

/// What a cell says where a value is missing.
pub(crate) fn optional<T>(value: Option<T>, print: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "–".into(), print)
}
