//! What was measured and decided, as charts and as one page to hand around.
//!
//! [`Data`] goes in; out come [`Report::html`], one self-contained page that needs no network and is
//! readable without scripts, and [`Report::charts`], its charts as SVG files for papers. Nothing here
//! reads files or clocks, or measures. Every text of the data is escaped.
//!
//! A chart is a function from data to SVG (`chart`), a section of the page puts charts and tables
//! into words (`section`), and the page is one template (`page`).
#![forbid(unsafe_code)]

mod chart;
mod data;
mod decisions;
mod groups;
mod kernel;
mod page;
mod scale;
mod section;
mod svg;
mod theme;
mod words;

use askama::Template;

pub use data::{Comparison, Data, Environment, Named};

/// A report, drawn.
#[derive(Debug)]
pub struct Report {
    page: page::Page,
}

impl Report {
    /// Draws everything that the data hold.
    pub fn new(data: &Data) -> Self {
        Self { page: page::Page::new(data) }
    }

    /// The page.
    pub fn html(&self) -> String {
        self.page.render().expect("a String takes every text")
    }

    /// The charts: the name of a file, unique and of letters, digits and hyphens, and what it holds.
    pub fn charts(&self) -> Vec<(String, String)> {
        let mut charts: Vec<(String, String)> = Vec::new();
        for chart in self.page.charts() {
            let taken = |name: &str| charts.iter().any(|(known, _)| known == name);
            let mut name = chart.name.clone();
            let mut count = 1;
            while taken(&name) {
                count += 1;
                name = format!("{}-{count}", chart.name);
            }
            let style = format!("><style>{}</style>", theme::chart());
            charts.push((name, chart.svg.replacen('>', &style, 1) + "\n"));
        }
        charts
    }
}
