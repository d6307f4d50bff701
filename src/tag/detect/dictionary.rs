//! The dictionary of [`super::names`]: words in English and Chinese, and what a column of that name holds.
//!
//! Categories follow the Fides taxonomy. Sensitive is what PIPL art. 28 names (biometrics, religion, specific identity,
//! health, financial accounts, whereabouts) or GDPR art. 9(1), and identity documents and credentials, which
//! GB/T 35273-2020, appendix B adds.

use crate::tag::detect::names::Meaning;
use crate::tag::grammar::Sensitivity;

/// Words of one meaning, with blanks between them: English ones with underscores where a name may part them, Chinese
/// ones as they stand in a text.
pub struct Entry {
    pub meaning: Meaning,
    pub words: &'static str,
}

const fn personal(category: &'static str, words: &'static str) -> Entry {
    Entry {
        meaning: Meaning {
            category,
            sensitivity: Sensitivity::Personal,
        },
        words,
    }
}

const fn sensitive(category: &'static str, words: &'static str) -> Entry {
    Entry {
        meaning: Meaning {
            category,
            sensitivity: Sensitivity::Sensitive,
        },
        words,
    }
}

/// The more specific ones first: the first that is found counts.
pub const DICTIONARY: &[Entry] = &[
    sensitive(
        "user.government_id.national_identification_number",
        "id_card identity_card id_number identity_number national_id citizen_id resident_id ssn \
         social_security_number tax_id tin 身份证 身份證 证件号 證件號 社保号 \
         社会保障号 纳税人识别号",
    ),
    sensitive(
        "user.government_id.passport_number",
        "passport passport_no 护照 護照 通行证",
    ),
    sensitive(
        "user.government_id.drivers_license_number",
        "driver_license drivers_license driving_licence driver_licence 驾照 驾驶证",
    ),
    sensitive(
        "user.financial.credit_card",
        "credit_card debit_card card_number card_no pan cvv cvc 信用卡",
    ),
    sensitive(
        "user.financial.bank_account",
        "iban bank_account account_number account_no bank_card routing_number sort_code 银行卡 \
         银行账 银行帐 銀行帳 卡号 收款账 收款帐",
    ),
    sensitive(
        "user.financial",
        "salary income wage credit_score credit_rating 工资 薪资 薪水 收入 征信 \
         信用分",
    ),
    sensitive(
        "user.biometric",
        "fingerprint face_id face_print faceprint iris voiceprint biometric 指纹 人脸 虹膜 \
         声纹 掌纹",
    ),
    sensitive(
        "user.health_and_medical",
        "diagnosis medical_record medical_history patient_id blood_type blood_pressure allergy \
         allergies disease disability prescription 病历 病例 诊断 血型 病史 过敏 \
         疾病 残疾 处方",
    ),
    sensitive(
        "user.demographic.religious_belief",
        "religion religious_belief 宗教 信仰",
    ),
    sensitive(
        "user.demographic.race_ethnicity",
        "race ethnicity ethnic_group 民族 种族",
    ),
    sensitive(
        "user.demographic.sexual_orientation",
        "sexual_orientation 性取向",
    ),
    sensitive(
        "user.demographic.political_opinion",
        "political_opinion political_affiliation 政治面貌",
    ),
    sensitive(
        "user.criminal_history",
        "criminal_record criminal_history 犯罪记录",
    ),
    sensitive(
        "user.location.precise",
        "latitude longitude lat lng lon geo_point geolocation gps coordinates coordinate 经度 \
         纬度 經度 緯度 坐标 定位 行踪 轨迹",
    ),
    sensitive(
        "user.authorization.credentials",
        "password passwd pwd password_hash pin_code secret_question security_answer otp_secret \
         密码 密碼 口令 密保",
    ),
    personal(
        "user.contact.email",
        "email e_mail email_address mail_address 邮箱 郵箱 电子邮件 电邮 电子信箱",
    ),
    personal(
        "user.device.ip_address",
        "ip ip_address ip_addr client_ip remote_addr remote_ip login_ip ip地址 登录ip",
    ),
    personal(
        "user.device.device_id",
        "mac_address mac_addr imei imsi idfa idfv oaid device_id android_id 设备号 设备id \
         设备标识 mac地址",
    ),
    personal(
        "user.contact.phone_number",
        "phone phone_number phone_no telephone telephone_number tel mobile mobile_number \
         mobile_phone cell_phone cellphone msisdn fax 手机 手機 电话 電話 联系方式 \
         传真",
    ),
    personal(
        "user.contact.address",
        "address home_address street street_address postal_address shipping_address \
         billing_address postal_code postcode zip_code zip 地址 住址 邮编 邮政编码 \
         门牌 籍贯",
    ),
    personal(
        "user.demographic.date_of_birth",
        "date_of_birth birth_date birthdate birthday dob born 出生 生日",
    ),
    personal("user.demographic.gender", "gender sex 性别 性別"),
    personal("user.demographic.age", "age 年龄 年齡"),
    personal("user.demographic.marital_status", "marital_status 婚姻"),
    personal(
        "user.demographic.nationality",
        "nationality citizenship 国籍 國籍",
    ),
    personal(
        "user.social",
        "wechat wechat_id weixin openid open_id unionid twitter facebook 微信 微博 支付宝",
    ),
    personal(
        "user.employment",
        "employer job_title occupation 职业 工作单位 职务 工号",
    ),
    personal("user.education", "student_id 学历 学号 毕业院校"),
    personal(
        "user.vehicle",
        "license_plate licence_plate plate_number vin 车牌 车架号",
    ),
    personal(
        "user.account.username",
        "username user_name login_name nickname nick_name screen_name 用户名 昵称 登录名 \
         账号名",
    ),
    personal(
        "user.name",
        "first_name last_name full_name given_name family_name middle_name real_name maiden_name \
         surname customer_name contact_name recipient_name consignee holder_name card_holder \
         buyer_name patient_name employee_name student_name guardian_name signature 姓名 名字 \
         联系人 收货人 收件人 真实名 监护人",
    ),
    personal("user.device", "user_agent 浏览器"),
];

/// What a column `name` holds in a table about people.
pub const NAME: Entry = personal("user.name", "name");

/// Words in the name of a table about people.
pub const PEOPLE: &str = "customer customers user users person persons people employee employees member members \
    patient patients contact contacts subscriber subscribers student students passenger \
    passengers guest guests client clients recipient recipients applicant applicants staff \
    客户 用户 会员 员工 患者 学生 联系人";

/// Last words after which a column tells about data, and is not the data: `email_verified`, `phone_type`.
pub const ABOUT: &str = "verified confirmed validated count type status enabled flag sent template at length \
    format label policy attempts version required";
