//! Writing SVG: every text and attribute is escaped, and every element that is opened is closed.

use std::fmt::{Display, Write};

/// An element's attributes.
pub(crate) type Attributes<'a> = &'a [(&'a str, &'a dyn Display)];

/// A drawing under construction.
pub(crate) struct Svg {
    text: String,
    open: Vec<&'static str>,
}

impl Svg {
    /// A drawing of that many units, which `label` names for those who cannot see it.
    pub(crate) fn new(width: f64, height: f64, label: &str) -> Self {
        let mut svg = Self { text: String::new(), open: Vec::new() };
        let size = format!("0 0 {} {}", number(width), number(height));
        svg.open(
            "svg",
            &[
                ("xmlns", &"http://www.w3.org/2000/svg"),
                ("class", &"chart"),
                ("viewBox", &size),
                ("role", &"img"),
                ("aria-label", &label),
            ],
        );
        svg
    }

    /// Begins an element with children.
    pub(crate) fn open(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.start(tag, attributes);
        self.text.push('>');
        self.open.push(tag);
    }

    /// Ends the element that was begun last.
    pub(crate) fn close(&mut self) {
        let tag = self.open.pop().expect("every close has its open");
        self.put(format_args!("</{tag}>"));
        if tag == "g" {
            self.text.push('\n');
        }
    }

    /// An element without children.
    pub(crate) fn leaf(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.start(tag, attributes);
        self.text.push_str("/>");
    }

    /// An element that tells `title` when it is pointed at; nothing is told of an empty one.
    pub(crate) fn told(&mut self, tag: &'static str, attributes: Attributes<'_>, title: &str) {
        if title.is_empty() {
            return self.leaf(tag, attributes);
        }
        self.open(tag, attributes);
        self.title(title);
        self.close();
    }

    /// What the open element tells when it is pointed at.
    pub(crate) fn title(&mut self, title: &str) {
        self.words("title", "", title);
    }

    /// A line of text that starts (`start`), is centred (`middle`) or ends (`end`) at a point.
    pub(crate) fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        self.start("text", &[("x", &number(x)), ("y", &number(y))]);
        if !class.is_empty() {
            self.put(format_args!(" class=\"{}\"", escaped(class)));
        }
        if anchor != "start" {
            self.put(format_args!(" text-anchor=\"{}\"", escaped(anchor)));
        }
        self.put(format_args!(">{}</text>", escaped(text)));
    }

    /// Words within a text or a title.
    pub(crate) fn words(&mut self, tag: &str, class: &str, words: &str) {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        self.put(format_args!("<{tag}{class}>{}</{tag}>", escaped(words)));
    }

    /// A straight line.
    pub(crate) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let path = format!("M{} {}L{} {}", number(x1), number(y1), number(x2), number(y2));
        self.leaf("path", &[("class", &class), ("d", &path)]);
    }

    /// A rectangle that tells `title`.
    pub(crate) fn rectangle(&mut self, at: Rectangle, class: &str, title: &str) {
        self.told(
            "rect",
            &[
                ("class", &class),
                ("x", &number(at.x)),
                ("y", &number(at.y)),
                ("width", &number(at.width.max(0.0))),
                ("height", &number(at.height.max(0.0))),
            ],
            title,
        );
    }

    /// The drawing.
    pub(crate) fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.text
    }

    fn start(&mut self, tag: &str, attributes: Attributes<'_>) {
        self.put(format_args!("<{tag}"));
        for (name, value) in attributes {
            self.put(format_args!(" {name}=\"{}\"", escaped(&value.to_string())));
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a String takes every text");
    }
}

/// Where a rectangle lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rectangle {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// A path from point to point.
pub(crate) fn path(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        write!(path, "{command}{} {}", number(*x), number(*y)).expect("as above");
    }
    path
}

/// A coordinate to a tenth of a unit; what is no number is 0.
pub(crate) fn number(value: f64) -> String {
    let tenths = if value.is_finite() { (value * 10.0).round() / 10.0 } else { 0.0 };
    // Adding zero drops the sign of a negative zero.
    (tenths + 0.0).to_string()
}

/// A text without what has a meaning in SVG and HTML, and without what XML has no place for.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push(' '),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_escaped_and_closed() {
        let mut svg = Svg::new(10.0, 20.0, "a \"b\"");
        svg.open("g", &[("class", &"<script>")]);
        svg.told("path", &[("d", &"M0 0")], "</title><script>alert('x')</script>\u{1}");
        svg.text(1.0, 2.04, "", "end", "a & b");
        let text = svg.finish();
        assert_eq!(
            text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 10 20\" \
             role=\"img\" aria-label=\"a &quot;b&quot;\"><g class=\"&lt;script&gt;\">\
             <path d=\"M0 0\"><title>&lt;/title&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\
             \u{fffd}</title></path><text x=\"1\" y=\"2\" text-anchor=\"end\">a &amp; b</text></g>\n\
             </svg>"
        );
    }

    #[test]
    fn coordinates_are_short_and_always_numbers() {
        assert_eq!([0.04, -0.04, 1.25, 100.0].map(number), ["0", "0", "1.3", "100"]);
        assert_eq!([f64::NAN, f64::INFINITY].map(number), ["0", "0"]);
    }
}
