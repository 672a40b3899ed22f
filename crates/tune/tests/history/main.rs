//! The history: files, processes, and JSON Lines.

mod common;
mod files;
mod jsonl;
