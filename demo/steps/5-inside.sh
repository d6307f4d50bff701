# Step 5: what is refused inside the primary.

step_5() {
    headline 'Step 5: inside the primary'
    say 'a publication of tagged columns'
    refused postgres 42501 'app.account' 'CREATE PUBLICATION contacts FOR TABLE app.account (account_id, email)'
    is 'publications of that name' 0 "$(value "SELECT count(*) FROM pg_publication WHERE pubname = 'contacts'")"
    say 'a table that was reviewed and cleared may be published'
    run_sql postgres 'CREATE PUBLICATION catalogue FOR TABLE app.product'

    say 'rows under a legal hold: by the owner, by a superuser, and with triggers switched off'
    refused shop_app 23001 2026-civ-0417 'DELETE FROM app.device WHERE account_id = 4711'
    refused shop_app 23001 2026-civ-0417 "UPDATE app.account SET email = NULL WHERE account_id = 4711"
    refused postgres 23001 2026-civ-0417 'SET session_replication_role = replica' 'DELETE FROM app.account WHERE account_id = 4711'

    say 'by cascade: one device is held, and somebody deletes its account'
    local account
    account=$(value 'SELECT account_id FROM app.account AS a WHERE EXISTS (SELECT FROM app.device AS d WHERE d.account_id = a.account_id)
        AND NOT EXISTS (SELECT FROM app.orders AS o WHERE o.account_id = a.account_id) ORDER BY account_id LIMIT 1')
    run_sql li_steward "SELECT custodian.place_hold('2026-ip-0093', approver => 'general_counsel', review_on => current_date + 90,
        reason => 'one device in an expert opinion', rel => 'app.device',
        match => jsonb_build_object('device_id', (SELECT jsonb_build_array(min(device_id)::text) FROM app.device WHERE account_id = $account)))"
    refused shop_app 23001 2026-ip-0093 "DELETE FROM app.account WHERE account_id = $account"

    say 'orders under a statutory minimum'
    refused shop_app 23001 'cn.tax.records' "DELETE FROM app.orders WHERE order_no = 'SO-0000007'"
    is 'held and kept rows are all there' '1|1|1|1' "$(value "SELECT (SELECT count(*) FROM app.device WHERE account_id = 4711),
        (SELECT count(email) FROM app.account WHERE account_id = 4711), (SELECT count(*) FROM app.account WHERE account_id = $account),
        (SELECT count(*) FROM app.orders WHERE order_no = 'SO-0000007')")"

    say 'tags: by somebody who owns nothing, and loosened by the owner'
    refused intern 42501 steward "SELECT custodian.tag_column('app.account', 'phone', 'user.contact.phone_number', '{shop.personal}')"
    refused shop_app 42501 steward 'SET ROLE app_owner' "SECURITY LABEL FOR custodian ON COLUMN app.account.email IS NULL"
    refused shop_app 42501 steward 'SET ROLE app_owner' "SELECT custodian.untag_column('app.account', 'email')"
    refused intern 42501 steward "SELECT custodian.define_purpose('shop.forever', 'contract', '99 years')"
    shown 'refused inside the primary: a publication of tagged columns, changes of held rows, directly and by cascade, and tags by others than stewards'
}
