//! Dispatchers on the real CPU backend: by the rules, learning, and when things go wrong.

mod common;
mod faults;
mod history;
mod learning;
mod rules;
