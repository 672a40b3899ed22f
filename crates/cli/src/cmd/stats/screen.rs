//! A view that is drawn over itself on a terminal, and leaves nothing behind.

use std::io::{self, Write};

/// The terminal's second screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const TO_TOP: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// The terminal's second screen, until it is dropped.
pub(super) struct Screen<W: Write>(W);

impl<W: Write> Screen<W> {
    /// Takes the screen.
    pub(super) fn enter(terminal: W) -> io::Result<Self> {
        let mut this = Self(terminal);
        this.0.write_all(ENTER.as_bytes())?;
        Ok(this)
    }

    /// Draws as much of `text` as a screen of this size holds.
    pub(super) fn draw(&mut self, text: &str, (rows, columns): (u16, u16)) -> io::Result<()> {
        let mut frame = String::from(TO_TOP);
        let lines: Vec<&str> = text.lines().take(rows.into()).collect();
        for (at, line) in lines.iter().enumerate() {
            frame.extend(line.chars().take(columns.into()));
            frame.push_str(CLEAR_LINE);
            // A line break after the last row would scroll.
            if at + 1 < lines.len() {
                frame.push('\n');
            }
        }
        frame.push_str(CLEAR_BELOW);
        self.0.write_all(frame.as_bytes())?;
        self.0.flush()
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        // A terminal that is gone needs no cleaning.
        self.0.write_all(LEAVE.as_bytes()).and_then(|()| self.0.flush()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_and_the_terminal_is_given_back() {
        let mut written = Vec::new();
        let mut screen = Screen::enter(&mut written).unwrap();
        screen.draw("first line\nsecond\nthird\n", (2, 5)).unwrap();
        drop(screen);
        let frame = format!("{TO_TOP}first{CLEAR_LINE}\nsecon{CLEAR_LINE}{CLEAR_BELOW}");
        assert_eq!(String::from_utf8(written).unwrap(), format!("{ENTER}{frame}{LEAVE}"));
    }
}
