//! Dispatchers on the real CPU backend: by the rules, learning, and when things go wrong.

mod common;
mod learning;
mod rules;
