//! What charts share: titles, axes, and a frame in which marks can be zoomed.
//!
//! Whatever lies between [`Plot::begin`] and [`Plot::end`] is cut at the frame, and the page's script
//! may scale it. So it holds no text, lines keep their width, and a point is a line of no length with
//! round ends: all that stays in shape.

use super::{TITLE, WIDTH};
use crate::scale::Scale;
use crate::svg::{Rectangle, Svg, number, path};

/// Begins a chart: what it shows in bold, and of what.
pub(crate) fn begin(height: f64, title: &str, of: &str) -> Svg {
    let separator = if title.is_empty() || of.is_empty() { "" } else { ": " };
    let mut svg = Svg::new(WIDTH, height, &format!("{title}{separator}{of}"));
    svg.open("text", &[("class", &"title"), ("x", &0), ("y", &14)]);
    svg.words("tspan", "", title);
    svg.words("tspan", "of", &format!("  {of}"));
    svg.close();
    svg
}

/// A frame with two axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot {
    pub(crate) x: Scale,
    pub(crate) y: Scale,
}

/// Marks are cut so far beyond the frame: points on its edge stay whole.
const SLACK: f64 = 5.0;

/// A mark on an axis: its coordinate and its text.
pub(crate) type Mark = (f64, String);

impl Plot {
    /// Draws axes and begins the marks.
    pub(crate) fn begin(&self, svg: &mut Svg, x_marks: &[Mark], y_marks: &[Mark]) {
        let Rectangle { x, y, width, height } = self.frame();
        let area = [x, y, width, height].map(number).join(" ");
        svg.open("g", &[("class", &"plot"), ("data-box", &area)]);
        svg.rectangle(self.frame(), "back", "");
        for (at, text) in y_marks {
            svg.open("g", &[("class", &"ty"), ("data-at", &number(*at))]);
            svg.line((x, *at), (x + width, *at), "grid");
            svg.text(x - 6.0, at + 4.0, "faint", "end", text);
            svg.close();
        }
        for (at, text) in x_marks {
            svg.open("g", &[("class", &"tx"), ("data-at", &number(*at))]);
            svg.line((*at, y), (*at, y + height), "grid");
            svg.text(*at, y + height + 15.0, "faint", "middle", text);
            svg.close();
        }
        let [x, y] = [x, y].map(|at| number(at - SLACK));
        let [width, height] = [width, height].map(|size| number(size + 2.0 * SLACK));
        let view = [&x, &y, &width, &height].map(String::as_str).join(" ");
        svg.open(
            "svg",
            &[("x", &x), ("y", &y), ("width", &width), ("height", &height), ("viewBox", &view)],
        );
        svg.open("g", &[("class", &"zoomed")]);
    }

    /// Ends the marks.
    pub(crate) fn end(&self, svg: &mut Svg) {
        for _ in 0..3 {
            svg.close();
        }
    }

    fn frame(&self) -> Rectangle {
        let ((x0, x1), (y0, y1)) = (self.x.ends(), self.y.ends());
        let (x, y) = (x0.min(x1), y0.min(y1));
        Rectangle { x, y, width: (x1 - x0).abs(), height: (y1 - y0).abs() }
    }
}

/// A point that tells `title`.
pub(crate) fn dot(svg: &mut Svg, (x, y): (f64, f64), class: &str, title: &str) {
    let at = format!("M{} {}h0", number(x), number(y));
    svg.told("path", &[("class", &class), ("d", &at)], title);
}

/// A line through points, where there is more than one.
pub(crate) fn line(svg: &mut Svg, points: &[(f64, f64)], class: &str) {
    if points.len() > 1 {
        svg.leaf("path", &[("class", &class), ("d", &path(points))]);
    }
}

/// The area between two lines.
pub(crate) fn band(svg: &mut Svg, upper: &[(f64, f64)], lower: &[(f64, f64)]) {
    if upper.len() > 1 {
        let around: Vec<(f64, f64)> = upper.iter().chain(lower.iter().rev()).copied().collect();
        svg.leaf("path", &[("class", &"band"), ("d", &(path(&around) + "Z"))]);
    }
}

/// Bars with names at their left and values at their right, under a title.
pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    pub(crate) of: &'a str,
    /// Space for names.
    pub(crate) left: f64,
    /// What the parts are: classes and words.
    pub(crate) key: &'a [(&'a str, &'a str)],
    pub(crate) rows: Vec<Bar>,
}

/// One bar.
pub(crate) struct Bar {
    pub(crate) name: String,
    /// What it stands for: the longest bar has the largest sum.
    pub(crate) parts: Vec<BarPart>,
    pub(crate) value: String,
    pub(crate) is_bold: bool,
}

/// A part of a bar.
pub(crate) struct BarPart {
    pub(crate) size: f64,
    pub(crate) class: String,
    pub(crate) title: String,
}

const BAR: f64 = 22.0;
/// Space for values.
const RIGHT: f64 = 70.0;

impl Bars<'_> {
    pub(crate) fn draw(&self) -> String {
        let height = TITLE + BAR * self.rows.len() as f64 + 4.0;
        let mut svg = begin(height, self.title, self.of);
        let mut right = WIDTH;
        for (class, words) in self.key.iter().rev() {
            svg.text(right, 14.0, "faint", "end", words);
            right -= 6.6 * words.len() as f64 + 13.0;
            svg.rectangle(Rectangle { x: right, y: 5.0, width: 9.0, height: 9.0 }, class, "");
            right -= 12.0;
        }
        let sum = |bar: &Bar| bar.parts.iter().map(|part| part.size).sum::<f64>();
        let longest = self.rows.iter().map(sum).fold(0.0, f64::max);
        let scale = Scale::linear((0.0, longest), (self.left, WIDTH - RIGHT));
        svg.line((self.left, TITLE - 4.0), (self.left, height - 4.0), "axis");
        for (index, bar) in self.rows.iter().enumerate() {
            let y = TITLE + BAR * index as f64;
            let class = if bar.is_bold { "bold" } else { "" };
            svg.text(self.left - 8.0, y + 13.0, class, "end", &bar.name);
            let mut begun = 0.0;
            for part in bar.parts.iter().filter(|part| part.size > 0.0) {
                let (x, end) = (scale.at(begun), scale.at(begun + part.size));
                let at = Rectangle { x, y: y + 2.0, width: (end - x).max(1.0), height: 14.0 };
                svg.rectangle(at, &part.class, &part.title);
                begun += part.size;
            }
            svg.text(scale.at(begun) + 6.0, y + 13.0, class, "start", &bar.value);
        }
        svg.finish()
    }
}
