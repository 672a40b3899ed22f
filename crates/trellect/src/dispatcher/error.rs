use trellect_core::{CallError, LaunchError, PrepareError};
use trellect_select::{ConfigError, SelectError};

use crate::{Failure, WrongResult};

/// A dispatcher that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DispatcherError {
    /// The layer could not be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The rules' numbers make no policy.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A call that was not computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The arguments do not belong together.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No kernel may serve.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The kernel failed, and so did every base kernel.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The kernel computed something wrong, and every base kernel failed.
    #[error(transparent)]
    Wrong(#[from] WrongResult),
}

impl From<Failure> for ForwardError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Launch(error) => Self::Launch(error),
            Failure::Wrong(wrong) => Self::Wrong(wrong),
        }
    }
}
