//! Dispatchers on the real CPU backend: by the rules, learning, and when things go wrong.

mod common;
mod faults;
mod history;
mod idle;
mod late;
mod learning;
mod metrics;
mod replay;
mod rules;
