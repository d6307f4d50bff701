-- The policy of the shop. Run by a member of the steward role.
-- Periods are those of the example; the bases and the citation are real, but no legal advice.

-- Why data is held: a name, a basis of the Personal Information Protection Law (PIPL), a period.
SELECT custodian.define_purpose('shop.account', 'contract', '1 year',
    description => 'the contract with the user: account and contact');
SELECT custodian.define_purpose('shop.order', 'contract', '2 years',
    description => 'the contract with the buyer: order, delivery, returns');
SELECT custodian.define_purpose('shop.delivery', 'contract', '180 days',
    description => 'the parcel: address and telephone number');
SELECT custodian.define_purpose('shop.security', 'legal_obligation', '6 months',
    description => 'statutory duty: network logs');
SELECT custodian.define_purpose('shop.personal', 'consent', '90 days', required => false,
    description => 'personalised pages: browsing and clicks');

-- Account data: the row is deleted one year after the user was last seen, or, where orders still need it,
-- stays as a shell without its personal cells.
SELECT custodian.tag_table('app.account', clock => 'last_seen_at', subject_kind => 'customer',
    subject_key => '{account_id}', collected => 'created_at', on_expiry => 'delete');
SELECT custodian.tag_column('app.account', 'phone', 'user.contact.phone_number', '{shop.account}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.account', 'email', 'user.contact.email', '{shop.account}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.account', 'display_name', 'user.name', '{shop.account}',
    residency => '{cn}', on_expiry => '{"constant":"(former user)"}');

-- Devices: two periods in one row. The advertising id is pseudonymized long before the row goes.
SELECT custodian.tag_table('app.device', clock => 'last_used_at', subject_kind => 'customer',
    subject_via => '{account_id}', collected => 'first_used_at', on_expiry => 'delete');
SELECT custodian.tag_column('app.device', 'model', 'user.device', '{shop.account}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.device', 'advertising_id', 'user.device.advertising_id', '{shop.personal}',
    residency => '{cn}', on_expiry => 'hmac');

-- Log data: the tags of the parent govern every partition. What was seen and clicked goes after 90 days,
-- the rest of the row after six months. The address serves two purposes: the longer one decides.
SELECT custodian.tag_table('app.app_log', clock => 'happened_at', subject_kind => 'customer',
    subject_via => '{account_id}', collected => 'happened_at', on_expiry => 'delete');
SELECT custodian.tag_column('app.app_log', 'ip', 'user.device.ip_address', '{shop.security,shop.personal}',
    residency => '{cn}');
SELECT custodian.tag_column('app.app_log', 'page_url', 'user.behavior.browsing_history', '{shop.personal}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.app_log', 'clicked', 'user.behavior', '{shop.personal}',
    residency => '{cn}', on_expiry => 'set_null');

-- Orders: tax law keeps what proves the sale; address and telephone number go on time.
SELECT custodian.tag_table('app.orders', clock => 'ordered_at', subject_kind => 'customer',
    subject_via => '{account_id}', collected => 'ordered_at', on_expiry => 'delete');
SELECT custodian.tag_column('app.orders', 'buyer_name', 'user.name', '{shop.order}', residency => '{cn}');
SELECT custodian.tag_column('app.orders', 'amount', 'user.financial', '{shop.order}', residency => '{cn}');
SELECT custodian.tag_column('app.orders', 'ship_phone', 'user.contact.phone_number', '{shop.delivery}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.tag_column('app.orders', 'ship_address', 'user.contact.address', '{shop.delivery}',
    residency => '{cn}', on_expiry => 'set_null');
SELECT custodian.require_minimum('cn.tax.records', 'app.orders', '{buyer_name,amount}', '10 years',
    citation => 'Rules for the Implementation of the Law of the PRC on the Administration of Tax Collection, Article 29(2): tax-related materials, ten years',
    clock => 'issued_at');

-- Order lines have no clock of their own: it is reached over the foreign key.
SELECT custodian.tag_table('app.order_item', clock => 'order_item_order_id_fkey.ordered_at');
SELECT custodian.tag_column('app.order_item', 'gift_message', 'user.content.private', '{shop.order}',
    residency => '{cn}', on_expiry => 'set_null');

-- Reviewed: nothing personal in it, so it may cross a border.
SELECT custodian.clear_column('app.product', 'sku');
SELECT custodian.clear_column('app.product', 'title');
