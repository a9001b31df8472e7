"""Frequent short words of languages that share an alphabet with others, and the code points of other scripts.

Words that two languages share stand under both. Apostrophes are dropped, as `words` does.
"""

from collections.abc import Mapping

_WORDS: Mapping[str, str] = {
    "en": (
        "the of and with for from is are this that your her his its by on in at an a to as it be was were has have "
        "will not or their our my you we they he she into over under near behind between next against through about "
        "there which who what when where how no all more some two three new old other up down out off front back "
        "black white red blue green yellow brown purple grey gray silver man woman men women people person boy girl "
        "child children dog cat house street room water photo picture image view home day night little big small "
        "large young sitting standing wearing holding wedding birthday kitchen bedroom living how full high size "
        "made during after before while together couple group several i do men table photos mint door care sort kind "
        "gate per pro plus chat grand son come due war die sin till barn robe vista pod met van rode mare pies com "
        "can cannot could would im"
    ),
    "de": (
        "der die das und mit von für im in auf ist ein eine einer eines einem einen den dem des zu zum zur bei aus "
        "nach auch nicht sich als an am sie er es wir ihr ich wie über unter vor oder aber nur noch sind war wird "
        "werden kann bild bilder foto fotos schwarz weiß weiss rot rote roter rotes blau grün gelb grau braun mann "
        "frau frauen kinder mädchen junge haus stadt straße neu neue alte kleine kleiner große großer schöne hund "
        "katze kaufen günstig damen herren tisch stuhl sitzt steht zwei drei ohne bis gegen durch blick"
    ),
    "fr": (
        "le la les de des du et en un une dans pour sur avec par au aux est sont qui que ce cette ces son sa ses "
        "leur nous vous il elle ils pas plus ou à d l chez sans sous entre vers noir noire blanc blanche rouge bleu "
        "bleue vert verte jaune gris femme femmes homme hommes enfant enfants fille garçon maison ville rue petit "
        "petite grand grande nouveau nouvelle photo photos chien chat cher robe chaussures table deux trois assis "
        "debout vue"
    ),
    "es": (
        "el la los las de del y en un una con para por que es son se su sus al lo como más no o sin sobre entre "
        "hasta desde este esta estos muy negro negra blanco blanca rojo roja azul verde amarillo gris mujer mujeres "
        "hombre hombres niño niña niños casa ciudad calle pequeño pequeña grande nuevo nueva foto fotos perro gato "
        "vestido zapatos mesa dos tres sentado vista comprar precio imagen imágenes"
    ),
    "it": (
        "il lo la i gli le di del della dei delle dello da dal dalla e ed in nel nella un una uno con per che è sono "
        "si su sul sulla come più non o al alla ai alle tra fra questo questa nero nera bianco bianca rosso rossa "
        "blu azzurro verde giallo grigio donna donne uomo uomini bambino bambina bambini casa città strada piccolo "
        "piccola grande nuovo nuova foto cane gatto abito vestito scarpe tavolo due tre seduto vista immagine "
        "immagini"
    ),
    "pt": (
        "o a os as de do da dos das e em no na nos nas um uma com para por que é são se seu sua ao à mais não ou sem "
        "sobre entre até este esta preto preta branco branca vermelho vermelha azul verde amarelo cinza mulher "
        "mulheres homem homens criança crianças menino menina casa cidade rua pequeno pequena grande novo nova foto "
        "fotos cachorro gato vestido sapatos mesa dois duas três sentado vista imagem imagens"
    ),
    "nl": (
        "de het een en van in op met voor is zijn aan te bij uit naar ook niet die dat dit deze als om door over "
        "onder tot of maar nog wordt worden kan zwart zwarte wit witte rood rode blauw blauwe groen groene geel "
        "grijs man vrouw vrouwen mannen kinderen kind meisje jongen huis stad straat nieuw nieuwe oude kleine grote "
        "mooie hond kat kopen goedkoop dames heren tafel stoel zit staat twee drie zonder tegen foto fotos"
    ),
    "pl": (
        "i w na z do ze się nie to jest są o od za po dla przez przy pod nad jak że oraz lub czarny czarna biały "
        "biała czerwony czerwona niebieski zielony żółty szary kobieta kobiety mężczyzna dzieci dziecko dziewczyna "
        "chłopiec dom miasto ulica nowy nowa stary mały mała duży duża zdjęcie zdjęcia pies kot sukienka buty stół "
        "dwa trzy bez który"
    ),
    "sv": (
        "och i på med för av är en ett den det de som till från om att inte har var vid under över efter mellan "
        "svart vit vitt röd rött blå grön gul grå man kvinna kvinnor män barn flicka pojke hus stad gata ny nya "
        "gammal liten stor bild bilder hund katt köp bord stol sitter står två tre utan mot"
    ),
    "da": (
        "og i på med for af er en et den det de som til fra om at ikke har var ved under over efter mellem sort hvid "
        "hvidt rød rødt blå grøn gul grå mand kvinde kvinder mænd børn pige dreng hus by gade ny nye gammel lille "
        "stor billede billeder hund kat køb bord stol sidder står to tre uden mod"
    ),
    "nb": (
        "og i på med for av er en et den det de som til fra om at ikke har var ved under over etter mellom svart "
        "hvit hvitt rød rødt blå grønn gul grå mann kvinne kvinner menn barn jente gutt hus by gate ny nye gammel "
        "liten stor bilde bilder hund katt kjøp bord stol sitter står to tre uten mot"
    ),
    "fi": (
        "ja on ei se että oli kanssa joka mutta kun niin hän ovat tai myös kuin vain sekä musta valkoinen punainen "
        "sininen vihreä keltainen harmaa mies nainen lapsi lapset tyttö poika talo kaupunki katu uusi vanha pieni "
        "suuri iso kuva kuvat koira kissa pöytä kaksi kolme ilman"
    ),
    "cs": (
        "a v na s z do se je to o od za po pro ze při pod nad jak že nebo jsou ve k ke u černý černá bílý bílá "
        "červený červená modrý zelený žlutý šedý žena ženy muž muži děti dítě dívka chlapec dům město ulice nový "
        "nová starý malý malá velký velká fotka fotografie pes kočka šaty boty stůl dva tři bez který"
    ),
    "hu": (
        "a az és egy nem is hogy van volt vagy de mint csak meg ez fekete fehér piros kék zöld sárga szürke nő nők "
        "férfi férfiak gyerek gyerekek lány fiú ház város utca új régi kicsi kis nagy kép képek kutya macska asztal "
        "két három nélkül"
    ),
    "ro": (
        "și si de la în in cu pe un o din pentru este sunt care nu a al ale ai se sau mai prin spre negru neagră alb "
        "albă roșu roșie albastru verde galben gri femeie femei bărbat copii copil fată băiat casă oraș stradă nou "
        "nouă mic mică mare poza poze câine pisică rochie masă doi trei fără"
    ),
    "tr": (
        "ve bir bu için ile de da çok en olarak olan gibi var ne daha siyah beyaz kırmızı mavi yeşil sarı gri kadın "
        "adam erkek çocuk çocuklar kız ev şehir sokak yeni eski küçük büyük resim resimleri fotoğraf köpek kedi "
        "elbise masa iki üç üzerinde"
    ),
    "id": (
        "dan di yang dengan untuk dari ini itu pada ke adalah tidak atau dalam oleh saat hitam putih merah biru "
        "hijau kuning wanita pria orang anak gadis rumah kota jalan baru lama kecil besar gambar foto anjing kucing "
        "baju meja dua tiga tanpa jual harga murah"
    ),
    "vi": (
        "và của là có cho với trong một những các được này từ đến không ở trên người màu đen trắng đỏ xanh vàng nữ "
        "nam trẻ em nhà thành phố đường mới nhỏ lớn đẹp ảnh hình chó mèo áo váy bàn hai ba"
    ),
    "ru": (
        "и в на с по для из от не это как что за к у до о а или он она они его был была под над при без черный "
        "черная белый белая красный красная синий зеленый желтый серый женщина мужчина дети девушка дом город улица "
        "новый новая фото картинки собака кошка платье купить цена"
    ),
    "uk": (
        "і в на з по для із від не це як що за до у та або він вона вони його був була під над при без чорний чорна "
        "білий біла червоний синій зелений жовтий сірий жінка чоловік діти дівчина будинок місто вулиця новий нова "
        "фото собака кішка купити ціна"
    ),
    "bg": (
        "и в на с за от не се да е по до из как като или при под над без са че черен бял червен син зелен жена мъж "
        "деца снимка"
    ),
}

WORDS: Mapping[str, frozenset[str]] = {code: frozenset(words.split()) for code, words in _WORDS.items()}
"""ISO 639-1 code -> words."""

SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x0370, 0x03FF, "el"),
    (0x0400, 0x052F, "Cyrl"),
    (0x0530, 0x058F, "hy"),
    (0x0590, 0x05FF, "he"),
    (0x0600, 0x06FF, "Arab"),
    (0x0750, 0x077F, "Arab"),
    (0x0900, 0x097F, "Deva"),
    (0x0980, 0x09FF, "bn"),
    (0x0A00, 0x0A7F, "pa"),
    (0x0A80, 0x0AFF, "gu"),
    (0x0B80, 0x0BFF, "ta"),
    (0x0C00, 0x0C7F, "te"),
    (0x0C80, 0x0CFF, "kn"),
    (0x0D00, 0x0D7F, "ml"),
    (0x0D80, 0x0DFF, "si"),
    (0x0E00, 0x0E7F, "th"),
    (0x0E80, 0x0EFF, "lo"),
    (0x1000, 0x109F, "my"),
    (0x10A0, 0x10FF, "ka"),
    (0x1100, 0x11FF, "ko"),
    (0x1200, 0x137F, "am"),
    (0x1780, 0x17FF, "km"),
    (0x1F00, 0x1FFF, "el"),
    (0x3040, 0x30FF, "ja"),
    (0x3130, 0x318F, "ko"),
    (0x31F0, 0x31FF, "ja"),
    (0x3400, 0x4DBF, "zh"),
    (0x4E00, 0x9FFF, "zh"),
    (0xAC00, 0xD7AF, "ko"),
    (0xFB50, 0xFDFF, "Arab"),
    (0xFE70, 0xFEFF, "Arab"),
    (0x20000, 0x3FFFF, "zh"),
)
"""First and last code point, and the language that is written in it, or an ISO 15924 name where there are several."""
