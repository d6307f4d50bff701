-- A shop, modelled on two published privacy policies: account data (telephone number, e-mail), log data
-- (device, browsing and click information), and orders, which tax law keeps.
-- The tables belong to app_owner, an ordinary role. Nothing in here knows about pg_custodian.

CREATE ROLE app_owner NOLOGIN;
CREATE SCHEMA app AUTHORIZATION app_owner;
SET ROLE app_owner;

CREATE TABLE app.account (
    account_id   bigint PRIMARY KEY,
    phone        text,
    email        text,
    display_name text NOT NULL,
    created_at   timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL
);

CREATE TABLE app.device (
    device_id      bigint PRIMARY KEY,
    account_id     bigint NOT NULL REFERENCES app.account ON DELETE CASCADE,
    model          text,
    advertising_id text,
    first_used_at  timestamptz NOT NULL,
    last_used_at   timestamptz NOT NULL
);
CREATE INDEX ON app.device (account_id);

CREATE TABLE app.app_log (
    log_id      bigint NOT NULL,
    happened_at timestamptz NOT NULL,
    account_id  bigint NOT NULL REFERENCES app.account ON DELETE CASCADE,
    device_id   bigint NOT NULL,
    kind        text NOT NULL,
    ip          inet,
    page_url    text,
    clicked     text,
    PRIMARY KEY (log_id, happened_at)
) PARTITION BY RANGE (happened_at);
CREATE INDEX ON app.app_log (happened_at);
CREATE INDEX ON app.app_log (account_id);

-- One partition per month, for the three years before today and the month after it.
DO $$
DECLARE
    month timestamptz;
BEGIN
    PERFORM set_config('TimeZone', 'UTC', true);
    FOR month IN
        SELECT generate_series(date_trunc('month', now() - interval '38 months'),
                               date_trunc('month', now() + interval '1 month'), interval '1 month')
    LOOP
        EXECUTE format('CREATE TABLE app.%I PARTITION OF app.app_log FOR VALUES FROM (%L) TO (%L)',
                       'app_log_' || to_char(month, 'YYYY_MM'), month, month + interval '1 month');
    END LOOP;
END
$$;

CREATE TABLE app.orders (
    order_id     bigint PRIMARY KEY,
    order_no     text NOT NULL UNIQUE,
    account_id   bigint NOT NULL REFERENCES app.account ON DELETE CASCADE,
    buyer_name   text,
    ship_phone   text,
    ship_address text,
    amount       numeric(12, 2),
    ordered_at   timestamptz NOT NULL,
    issued_at    timestamptz NOT NULL
);
CREATE INDEX ON app.orders (account_id);

CREATE TABLE app.order_item (
    order_item_id bigint PRIMARY KEY,
    order_id      bigint NOT NULL REFERENCES app.orders ON DELETE CASCADE,
    sku           text NOT NULL,
    quantity      integer NOT NULL,
    gift_message  text
);
CREATE INDEX ON app.order_item (order_id);

-- No personal data at all: reviewed and cleared in policy.sql, so that it may cross.
CREATE TABLE app.product (
    sku   text PRIMARY KEY,
    title text NOT NULL
);

RESET ROLE;
