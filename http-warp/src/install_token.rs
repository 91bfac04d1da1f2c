//! Install tokens: the public exchange, and minting.

use enlist_core::wire::{ExchangeRequest, MintInstallToken};
use http::{Method, StatusCode};
use warp::Filter;
use warp::filters::BoxedFilter;

use crate::Routes;
use crate::reply::{Answer, Response, json};
use crate::request::id;
use crate::resource::{AdminCall, PublicCall, Resource};

pub(crate) fn routes(api: &Routes) -> BoxedFilter<(Response,)> {
    exchange(api).or(install_tokens(api)).unify().boxed()
}

fn exchange(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn exchange(mut call: PublicCall, (): ()) -> Answer {
        let request: ExchangeRequest = call.json().await?;
        Ok(json(StatusCode::OK, &call.fleet.enrol(request, call.address).await?))
    }
    Resource::new(api, "/v1/install-tokens/exchange")
        .public(Method::POST, exchange)
        .at(warp::path!("install-tokens" / "exchange").map(|| ()))
}

fn install_tokens(api: &Routes) -> BoxedFilter<(Response,)> {
    async fn mint(mut call: AdminCall, host_id: String) -> Answer {
        let host_id = id(&host_id)?;
        let request: MintInstallToken = call.json_or_default().await?;
        Ok(json(StatusCode::CREATED, &call.admin().mint_install_token(host_id, request).await?))
    }
    Resource::new(api, "/v1/hosts/{host_id}/install-tokens")
        .admin(Method::POST, mint)
        .at(warp::path!("hosts" / String / "install-tokens"))
}
