//! Colours: one palette for charts and page, light and dark, told apart also by those who do not see
//! red, green or blue as others do.

/// Names of colours with their values in the light and in the dark theme.
const PALETTE: [(&str, &str, &str); 20] = [
    ("paper", "#ffffff", "#12161c"),
    ("panel", "#ffffff", "#181d25"),
    ("edge", "#dfe3e8", "#2b323d"),
    ("ink", "#1d2430", "#e6e9ee"),
    ("faint", "#5d6876", "#98a3b3"),
    ("grid", "#e8ebef", "#272e38"),
    ("accent", "#1a4fa3", "#8ab8ff"),
    ("good", "#00734f", "#43c59a"),
    ("bad", "#a82a00", "#ff8a5c"),
    ("decode", "#0b3f7f", "#6ea8f5"),
    ("specialised", "#2e8fd0", "#a9dbff"),
    ("prefill4", "#007f5f", "#2fc499"),
    ("base", "#c47d00", "#f0b545"),
    ("grouped", "#b8568f", "#e79ac8"),
    ("large-batch", "#b23a06", "#ff8152"),
    ("other", "#6b7280", "#a3acb9"),
    ("heat", "#0b3f7f", "#6ea8f5"),
    ("serving", "#5d6876", "#98a3b3"),
    ("probing", "#c47d00", "#f0b545"),
    ("halo", "#ffffff", "#181d25"),
];

/// How charts look, in colours of the palette.
const CHART: &str = include_str!("../templates/chart.css");

/// The page's style.
pub(crate) fn page() -> String {
    let [light, dark] = [variables(|(_, light, _)| light), variables(|(_, _, dark)| dark)];
    format!(
        ":root{{color-scheme:light;{light}}}\n\
         @media (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}\n\
         :root[data-theme=light]{{color-scheme:light;{light}}}\n\
         :root[data-theme=dark]{{color-scheme:dark;{dark}}}\n\
         @media print{{:root,:root[data-theme]{{color-scheme:light;{light}}}}}\n{CHART}{}",
        include_str!("../templates/page.css")
    )
}

/// The style of a chart that stands alone, in plain colours of the light theme: programs that set
/// papers know no variables.
pub(crate) fn chart() -> String {
    PALETTE.iter().fold(CHART.into(), |style: String, (name, light, _)| {
        style.replace(&format!("var(--{name})"), light)
    })
}

fn variables(theme: fn(&(&'static str, &'static str, &'static str)) -> &'static str) -> String {
    PALETTE.iter().map(|colour| format!("--{}:{};", colour.0, theme(colour))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_is_in_the_palette() {
        assert!(!chart().contains("var("), "{}", chart());
        let page = page();
        for used in page.split("var(--").skip(1) {
            let name = used.split(')').next().unwrap();
            assert!(PALETTE.iter().any(|colour| colour.0 == name), "{name}");
        }
    }
}
